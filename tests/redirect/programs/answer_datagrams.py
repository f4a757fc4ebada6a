"""Answer each datagram at places (`address/port`) with a name."""

import socket
import sys
import threading


def serve(address, port):
    server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, int(port)))
    while True:
        _, caller = server.recvfrom(99)
        server.sendto(sys.argv[1].encode(), caller)


for place in sys.argv[2:]:
    threading.Thread(target=serve, args=place.rsplit("/", 1), daemon=True).start()
print("up", flush=True)
sys.stdin.read()
