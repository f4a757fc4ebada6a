"""Send requests to a URL until the server sees the client's identity."""

import json
import sys
import time
import urllib.request

while True:
    try:
        if json.load(urllib.request.urlopen(sys.argv[1], timeout=5))["client_id"]:
            break
    except OSError:
        pass
    time.sleep(0.01)
