"""Answer each connection to a port with its peer's address and port."""

import socket
import sys
import threading


def answer(connection, peer):
    with connection:
        connection.recv(100)
        connection.sendall(f"{peer[0]} {peer[1]}".encode())


server = socket.create_server(("", int(sys.argv[1])))
print("up", flush=True)
while True:
    threading.Thread(target=answer, args=server.accept(), daemon=True).start()
