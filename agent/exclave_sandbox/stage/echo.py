"""The application of the demo: `python -m exclave_sandbox.stage.echo NAME PORT`.

It answers every HTTP request with who it is, who connected, and the identity its proxy says the client has
(header l5d-client-id); it knows nothing of meshes, which is the point.
"""

import argparse
import json

import h11
import trio

IDLE = 120.0
"""Seconds after which a silent connection is closed."""


async def answer(stream: trio.SocketStream, name: str) -> None:
    """Serve one connection."""
    http = h11.Connection(h11.SERVER)
    peer = stream.socket.getpeername()[0]
    client: str | None = None
    async with stream:
        with trio.move_on_after(IDLE) as idle:
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    http.receive_data(await stream.receive_some(65536))
                    idle.deadline = trio.current_time() + IDLE
                elif isinstance(event, h11.Request):
                    found = [value for header, value in event.headers if header == b"l5d-client-id"]
                    client = found[0].decode() if found else None
                elif isinstance(event, h11.EndOfMessage):
                    await stream.send_all(_response(http, name, peer, client))
                    if http.our_state is h11.MUST_CLOSE:
                        return
                    http.start_next_cycle()
                elif isinstance(event, h11.ConnectionClosed):
                    return


def _response(http: h11.Connection, name: str, peer: str, client: str | None) -> bytes:
    body = json.dumps({"server": name, "peer": peer, "client_id": client}).encode() + b"\n"
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    events = (h11.Response(status_code=200, headers=headers), h11.Data(data=body), h11.EndOfMessage())
    return b"".join(http.send(event) or b"" for event in events)


async def serve(name: str, port: int) -> None:
    """Serve on every address, for ever."""

    async def guarded(stream: trio.SocketStream) -> None:
        try:
            await answer(stream, name)
        except (trio.BrokenResourceError, h11.RemoteProtocolError):
            return  # a client that breaks off, or talks something else, ends its own connection only

    await trio.serve_tcp(guarded, port)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Answers HTTP with who asked.")
    parser.add_argument("name")
    parser.add_argument("port", type=int)
    arguments = parser.parse_args()
    trio.run(serve, arguments.name, arguments.port)


if __name__ == "__main__":
    main()
