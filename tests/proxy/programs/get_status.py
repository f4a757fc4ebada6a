"""Requests a path from a proxy's admin server and prints the status. Arguments: the server's address, the path."""

import http.client
import sys

connection = http.client.HTTPConnection(sys.argv[1], 4191, timeout=5)
connection.request("GET", sys.argv[2])
print(connection.getresponse().status)
