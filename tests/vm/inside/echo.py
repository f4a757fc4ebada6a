"""The application of a machine: python3 echo.py NAME PORT [URL FILE]. It needs no library.

It answers as the sandbox's does: with its name, the address that connected, and the client's identity by the header
l5d-client-id. With URL it first sends one request there, and appends the answer to FILE.
"""

import json
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME, PORT = sys.argv[1], int(sys.argv[2])


if sys.argv[3:]:
    url, file = sys.argv[3:]
    try:
        first = urllib.request.urlopen(url, timeout=5).read().decode().strip()
    except OSError as problem:
        first = json.dumps({"client_id": f"none: {problem}"})
    with open(file, "a") as log:
        log.write(first + "\n")


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        found = {"server": NAME, "peer": self.client_address[0], "client_id": self.headers.get("l5d-client-id")}
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


Server(("", PORT), Answer).serve_forever()
