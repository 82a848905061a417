// requests.mjs ADDRESS SOCKETS: requests of Node's own clients: HTTP/1.1 over a kept connection, HTTP/2 with several
// streams, and a WebSocket handshake at the address SOCKETS with one frame each way. Prints what came of them as JSON.
import { createHash, randomBytes } from "node:crypto";
import { Agent, request } from "node:http";
import { connect } from "node:http2";

const [address, sockets] = process.argv.slice(2);
const agent = new Agent({ keepAlive: true, maxSockets: 1 });

function http1(method, path, body) {
  return new Promise((resolve, reject) => {
    const asked = request(`http://${address}${path}`, { method, agent }, (response) => {
      const port = response.socket.localPort;
      let text = "";
      response.on("data", (chunk) => (text += chunk));
      response.on("end", () => resolve({ status: response.statusCode, text, port }));
      response.on("error", reject);
    });
    asked.on("error", reject);
    // Without a length: chunked.
    if (body) asked.write(body);
    asked.end();
  });
}

function http2() {
  return new Promise((resolve, reject) => {
    const session = connect(`http://${address}`);
    session.on("error", reject);
    const streams = Array.from({ length: 20 }, (_, n) => {
      return new Promise((done, failed) => {
        const stream = session.request({ ":method": "POST", ":path": `/stream/${n}` });
        let status = 0;
        let text = "";
        stream.on("response", (headers) => (status = headers[":status"]));
        stream.on("data", (chunk) => (text += chunk));
        stream.on("end", () => done(status === 200 && text.includes("POST")));
        stream.on("error", failed);
        stream.end("z".repeat(1000 * n));
      });
    });
    Promise.all(streams).then((all) => {
      session.close();
      resolve(all.filter(Boolean).length);
    }, reject);
  });
}

function websocket() {
  return new Promise((resolve, reject) => {
    const key = randomBytes(16).toString("base64");
    const headers = { connection: "Upgrade", upgrade: "websocket", "sec-websocket-version": 13, "sec-websocket-key": key };
    const asked = request(`http://${sockets}/`, { headers });
    asked.on("error", reject);
    asked.on("response", (response) => reject(new Error(`not switched: ${response.statusCode}`)));
    asked.on("upgrade", (response, socket, head) => {
      const accept = createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
      let heard = head;
      socket.on("data", (chunk) => {
        heard = Buffer.concat([heard, chunk]);
        if (heard.length < 7) return;
        socket.destroy();
        resolve({ accepted: response.headers["sec-websocket-accept"] === accept, said: heard.subarray(2, 7).toString() });
      });
      // One masked text frame (RFC 6455 section 5.2).
      const mask = randomBytes(4);
      const masked = Buffer.from("hello").map((byte, at) => byte ^ mask[at % 4]);
      socket.write(Buffer.concat([Buffer.from([0x81, 0x85]), mask, masked]));
    });
    asked.end();
  });
}

// HEAD is the last: where its answer tells nothing about a body, Node closes the connection.
const kept = [await http1("GET", "/a"), await http1("POST", "/b", "y".repeat(50_000)), await http1("HEAD", "/c")];
const all = {
  statuses: kept.map((answer) => answer.status),
  connections: new Set(kept.map((answer) => answer.port)).size,
  uploaded: kept[1].text,
  head: kept[2].text,
  streams: await http2(),
  websocket: await websocket(),
};
agent.destroy();
console.log(JSON.stringify(all));
