"""A fast server for measurements, without TLS: HTTP/1.1 and HTTP/2 on the first port, an echo of bytes on the second,
gRPC on the third.

It answers every request with status 200. It knows as much of HTTP/2 as a proxy sends to it. gRPC is grpcio's.
"""

import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
END_STREAM, ACK, END_HEADERS = 1, 1, 4
STATUS_200 = b"\x88"  # RFC 7541, Appendix A, index 8
METHOD = "/measure.Echo/Say"


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def answer_http1(connection, received):
    while True:
        end = received.find(b"\r\n\r\n")
        if end >= 0:
            received = received[end + 4 :]
            connection.sendall(ANSWER)
            continue
        piece = connection.recv(65536)
        if not piece:
            return
        received += piece


def answer_http2(connection, received):
    received = received[len(PREFACE) :]
    connection.sendall(frame(SETTINGS, 0, 0))
    while True:
        answers = b""
        while len(received) >= 9 and len(received) >= 9 + int.from_bytes(received[:3], "big"):
            size, kind, flags = int.from_bytes(received[:3], "big"), received[3], received[4]
            stream, payload, received = (
                int.from_bytes(received[5:9], "big"),
                received[9 : 9 + size],
                received[9 + size :],
            )
            if kind in (SETTINGS, PING) and not flags & ACK:
                answers += frame(kind, ACK, 0, payload if kind == PING else b"")
            elif kind in (HEADERS, DATA) and flags & END_STREAM:
                answers += frame(HEADERS, END_HEADERS, stream, STATUS_200) + frame(DATA, END_STREAM, stream, b"ok")
        if answers:
            connection.sendall(answers)
        piece = connection.recv(65536)
        if not piece:
            return
        received += piece


def answer_http(connection):
    received = connection.recv(65536)
    while received and PREFACE.startswith(received):  # it has not arrived whole
        if len(received) == len(PREFACE):
            break
        received += connection.recv(65536)
    (answer_http2 if received.startswith(PREFACE) else answer_http1)(connection, received)


def echo(connection):
    while piece := connection.recv(1 << 18):
        connection.sendall(piece)


def serve(server, answer):
    def talk(connection):
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(OSError):  # the client has gone
                answer(connection)

    while True:
        threading.Thread(target=talk, args=(server.accept()[0],), daemon=True).start()


class Echo(grpc.GenericRpcHandler):
    """Answers calls of METHOD with what they send."""

    def service(self, call):
        return grpc.unary_unary_rpc_method_handler(lambda sent, _: sent) if call.method == METHOD else None


if __name__ == "__main__":
    *others, grpc_port = map(int, sys.argv[1:])
    for port, answer in zip(others, (answer_http, echo), strict=True):
        threading.Thread(target=serve, args=(socket.create_server(("", port)), answer)).start()
    server = grpc.server(ThreadPoolExecutor(2), (Echo(),))
    server.add_insecure_port(f"0.0.0.0:{grpc_port}")
    server.start()
    print("up", flush=True)
    server.wait_for_termination()
