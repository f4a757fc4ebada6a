"""Listens at an address and port of the private link, as another program would, until its standard input ends."""

import socket
import sys

listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("up", flush=True)
sys.stdin.read()
