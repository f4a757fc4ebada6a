"""Requests /ready and /metrics from a proxy's admin server, and prints the statuses.

python query_admin.py ADDRESS SOURCE...: the server's address, and the addresses to connect from
"""

import http.client
import sys

statuses = []
for source in sys.argv[2:]:
    connection = http.client.HTTPConnection(sys.argv[1], 4191, timeout=5, source_address=(source, 0))
    for path in ("/ready", "/metrics"):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        statuses.append(str(response.status))
print(*statuses)
