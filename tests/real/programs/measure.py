"""Measure `serve.py`: protocol (http1, http2, grpc or tcp), address, port, seconds.

First one request after the other, for latency; then as many at once as fit, for throughput. Print both as JSON: the
median in milliseconds, and requests or megabytes a second. A wrong answer ends it with an error.
"""

import json
import socket
import statistics
import sys
import time

import grpc
from serve import ACK, DATA, END_HEADERS, END_STREAM, HEADERS, METHOD, PING, PREFACE, SETTINGS, STATUS_200, frame

WINDOW_UPDATE = 8
AT_ONCE = 32  # requests of HTTP
PIECE = bytes(1 << 16)


class Http1:
    """One connection; requests at once are sent one behind the other."""

    def __init__(self, host, port):
        self.connection = connect(host, port)
        self.request = f"GET / HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n".encode()
        self.received = b""

    def exchange(self, count):
        self.connection.sendall(self.request * count)
        while count:
            head, found, rest = self.received.partition(b"\r\n\r\n")
            if found and len(rest) >= 2:
                assert head.startswith(b"HTTP/1.1 200 "), head
                assert rest.startswith(b"ok"), rest
                self.received = rest[2:]
                count -= 1
            else:
                self.received += read(self.connection)


class Http2:
    """One connection; requests at once are streams."""

    def __init__(self, host, port):
        self.connection = connect(host, port)
        authority = f"{host}:{port}".encode()
        # RFC 7541, Appendix A: GET, http, /, and the authority as a literal.
        self.headers = b"\x82\x86\x84\x01" + bytes([len(authority)]) + authority
        self.stream, self.received = 1, b""
        window = frame(WINDOW_UPDATE, 0, 0, (1 << 30).to_bytes(4, "big"))
        self.connection.sendall(PREFACE + frame(SETTINGS, 0, 0) + window)

    def exchange(self, count):
        opened = range(self.stream, self.stream + 2 * count, 2)
        self.stream += 2 * count
        flags = END_STREAM | END_HEADERS
        self.connection.sendall(b"".join(frame(HEADERS, flags, stream, self.headers) for stream in opened))
        while count:
            if len(self.received) < 9 or len(self.received) < 9 + int.from_bytes(self.received[:3], "big"):
                self.received += read(self.connection)
                continue
            size, kind, flags = int.from_bytes(self.received[:3], "big"), self.received[3], self.received[4]
            payload, self.received = self.received[9 : 9 + size], self.received[9 + size :]
            if kind in (SETTINGS, PING) and not flags & ACK:
                self.connection.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))
            elif kind == HEADERS:
                assert payload.startswith(STATUS_200), payload
            assert kind not in (3, 7), f"the stream or the connection was ended: {payload!r}"
            count -= bool(kind in (HEADERS, DATA) and flags & END_STREAM)


class Grpc:
    """One channel; calls at once are streams of its connection. A call with another status than OK raises."""

    def __init__(self, host, port):
        self.call = grpc.insecure_channel(f"{host}:{port}").unary_unary(METHOD)

    def exchange(self, count):
        for answer in [self.call.future(b"ok", timeout=10.0) for _ in range(count)]:
            assert answer.result() == b"ok"


class Tcp:
    """One connection; an exchange sends bytes and reads the same number back, many of them at once."""

    def __init__(self, host, port):
        self.connection = connect(host, port)

    def exchange(self, count):
        sent = PIECE if count > 1 else b"x" * 64
        for _ in range(count):
            self.connection.sendall(sent)
        left = len(sent) * count
        while left:
            left -= len(read(self.connection))


def connect(host, port):
    connection = socket.create_connection((host, port), 10.0)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read(connection):
    piece = connection.recv(1 << 18)
    assert piece, "the connection was closed"
    return piece


def repeat(exchange, count, seconds):
    """The seconds that each exchange took."""
    taken, end = [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        exchange(count)
        taken.append(time.perf_counter() - began)
    return taken


def main():
    protocol, host, port, seconds = sys.argv[1:]
    client = {"http1": Http1, "http2": Http2, "grpc": Grpc, "tcp": Tcp}[protocol](host, int(port))
    at_once = 8 if protocol == "tcp" else AT_ONCE  # more bytes than buffers hold would block both sides
    client.exchange(1)  # look-ups and handshakes do not count
    latency = 1000 * statistics.median(repeat(client.exchange, 1, float(seconds)))
    taken = repeat(client.exchange, at_once, float(seconds))
    amount = at_once * (len(PIECE) / 1e6 if protocol == "tcp" else 1)
    print(json.dumps([latency, amount * len(taken) / sum(taken)]))


if __name__ == "__main__":
    main()
