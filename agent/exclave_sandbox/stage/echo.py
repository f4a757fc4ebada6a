"""The application of the demo: `python -m exclave_sandbox.stage.echo NAME PORT`.

It answers with its name, the address that connected, and the client's identity by the header l5d-client-id.
"""

import argparse
from functools import partial

import h11
import trio

from exclave_sandbox.http1 import Answer, json_answer, serve_requests


async def answer(stream: trio.SocketStream, name: str) -> None:
    """Serve one connection."""
    peer = stream.socket.getpeername()[0]

    def respond(request: h11.Request) -> Answer:
        identities = [value.decode() for header, value in request.headers if header == b"l5d-client-id"]
        return json_answer(200, {"server": name, "peer": peer, "client_id": identities[0] if identities else None})

    await serve_requests(stream, respond)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Answers each HTTP request with the client's address and identity.")
    parser.add_argument("name")
    parser.add_argument("port", type=int)
    arguments = parser.parse_args()
    trio.run(trio.serve_tcp, partial(answer, name=arguments.name), arguments.port)


if __name__ == "__main__":
    main()
