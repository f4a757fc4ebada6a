"""Hold one connection: send each line of stdin, print each line that comes back."""

import socket
import sys

connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)
lines = connection.makefile("rwb")
print(lines.readline().decode().strip(), flush=True)
for line in sys.stdin.buffer:
    lines.write(line)
    lines.flush()
    print(lines.readline().decode().strip(), flush=True)
