// app.mjs ADDRESS: an application of Node's own HTTP server. It says 103 before the answer where it is asked to (Python's
// http.client, for one, takes any 1xx but 100 for the answer), counts bodies, and answers the trailer it was sent with one of
// its own.
import { createServer } from "node:http";

const [host, port] = process.argv[2].split(":");

const server = createServer((request, response) => {
  let bytes = 0;
  request.on("data", (chunk) => (bytes += chunk.length));
  request.on("end", () => {
    if (request.headers["x-hints"]) response.writeEarlyHints({ link: "</style.css>; rel=preload" });
    const head = request.method === "HEAD";
    const sum = request.trailers["x-sum"] ?? "-";
    // Chunked, for there is no length: only so can a trailer follow.
    response.writeHead(200, { "content-type": "text/plain", ...(head ? {} : { trailer: "x-seen" }) });
    response.write(`${request.method} ${bytes}`);
    if (!head) response.addTrailers({ "x-seen": sum });
    response.end();
  });
});
server.listen(Number(port), host);
