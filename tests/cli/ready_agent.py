"""An agent that answers `ready` to one client of the socket in its argument. It detaches before."""

import os
import socket
import sys

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
listener.settimeout(20)
if os.fork():
    sys.exit()
client, _ = listener.accept()
os.unlink(sys.argv[1])
client.recv(4096)
client.sendall(b'{"state": "ready"}\n')
