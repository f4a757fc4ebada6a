"""Send one datagram: address, port, timeout. Print the answer, or the name of the exception."""

import socket
import sys

sender = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
sender.settimeout(float(sys.argv[3]))
try:
    sender.sendto(b"?", (sys.argv[1], int(sys.argv[2])))
    print(sender.recv(99).decode())
except OSError as problem:
    print(type(problem).__name__)
