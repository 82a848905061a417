"""requests.py ADDRESS: requests of Python's own client over one connection; prints what came of them as JSON."""

import http.client
import json
import sys

connection = http.client.HTTPConnection(sys.argv[1], timeout=30)
statuses = []
sockets = set()


def ask(method, path, body=None, **more):
    connection.request(method, path, body, **more)
    sockets.add(connection.sock)
    answer = connection.getresponse()
    statuses.append(answer.status)
    return answer.read().decode()


ask("GET", "/")
head = ask("HEAD", "/")
uploaded = ask("PUT", "/", (b"x" * 1000 for _ in range(50)), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
deleted = ask("DELETE", "/")
print(json.dumps({"statuses": statuses, "sockets": len(sockets), "head": head, "uploaded": uploaded, "deleted": deleted}))
