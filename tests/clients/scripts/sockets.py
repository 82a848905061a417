"""A server of WebSockets and a client that talks to it (Debian's python3-websockets).

sockets.py serve HOST:PORT   sends back what it is sent
sockets.py talk HOST:PORT    small messages, large ones, a ping, an orderly end; prints what came of them as JSON
sockets.py hold HOST:PORT    connects, says so, and waits for the end
"""

import asyncio
import json
import sys

import websockets

MAX_SIZE = 16 << 20


async def serve(host, port):
    async def echo(socket):
        async for message in socket:
            await socket.send(message)

    async with websockets.serve(echo, host, port, max_size=MAX_SIZE):
        await asyncio.Future()


async def talk(url):
    async with websockets.connect(url, max_size=MAX_SIZE) as socket:
        small = 0
        for n in range(200):
            await socket.send(f"message {n}")
            small += await socket.recv() == f"message {n}"
        # More than any buffer on the way holds: each side goes at the other's pace.
        large = bytes(range(256)) * 4096
        sender = asyncio.ensure_future(send_all(socket, large, 12))
        came = [await socket.recv() == large for _ in range(12)]
        await sender
        await asyncio.wait_for(await socket.ping(), 10)
    print(json.dumps({"small": small, "large": sum(came), "closed": socket.close_code}))


async def send_all(socket, message, times):
    for _ in range(times):
        await socket.send(message)


async def hold(url):
    async with websockets.connect(url) as socket:
        print("open", flush=True)
        await socket.wait_closed()
        print("closed", socket.close_code, flush=True)


def main():
    verb, address = sys.argv[1:]
    host, port = address.split(":")
    if verb == "serve":
        asyncio.run(serve(host, int(port)))
    else:
        asyncio.run({"talk": talk, "hold": hold}[verb](f"ws://{address}/"))


main()
