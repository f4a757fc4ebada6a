"""One thief who asks for all he may as fast as he can, as a program: `python flooding.py URL CA-FILE SECONDS`.

On standard input comes one JSON object. With a stolen machine: `token`, and the paths of its own `member`, `lease` and
`token` request; every write changes what is stored. With a stolen join token: `token`, the path of all `members`, and
their `bodies`, each of which is created once. It prints how often each HTTP status came back.
"""

import http.client
import json
import queue
import ssl
import sys
import threading
import time
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

AT_ONCE = 32


MERGE = "application/merge-patch+json"
AUDIENCE = "https://kubernetes.default.svc"


def requests(who: int, number: int) -> tuple[tuple[str, str, str, dict[str, Any]], ...]:
    """One round: method, which path, content type, body."""
    return (
        ("PATCH", "member", MERGE, {"spec": {"facts": {"flood": f"{who} {number} ".ljust(256, "x")}}}),
        ("PATCH", "lease", MERGE, {"spec": {"holderIdentity": f"{who} {number} ".ljust(256, "x")}}),
        ("POST", "mint", "application/json", {"spec": {"audiences": [AUDIENCE], "expirationSeconds": 600}}),
    )


def flood(url: str, tls: ssl.SSLContext, given: dict[str, str], until: float, who: int, found: Counter[str]) -> None:
    """Ask until it is time."""
    where = urlsplit(url)
    connection = http.client.HTTPSConnection(str(where.hostname), where.port, context=tls, timeout=30)
    number = 0
    while time.monotonic() < until:
        number += 1
        method, place, content_type, body = requests(who, number)[(who + number) % 3]
        headers = {"Authorization": f"Bearer {given['token']}", "Content-Type": content_type}
        connection.request(method, given[place], json.dumps(body), headers)
        answer = connection.getresponse()
        answer.read()
        found[str(answer.status)] += 1


def make(
    url: str, tls: ssl.SSLContext, given: dict[str, Any], bodies: "queue.SimpleQueue[Any]", found: Counter[str]
) -> None:
    """Create Members until there are no more bodies."""
    where = urlsplit(url)
    connection = http.client.HTTPSConnection(str(where.hostname), where.port, context=tls, timeout=60)
    headers = {"Authorization": f"Bearer {given['token']}", "Content-Type": "application/json"}
    while True:
        try:
            body = bodies.get_nowait()
        except queue.Empty:
            return
        connection.request("POST", given["members"], json.dumps(body), headers)
        answer = connection.getresponse()
        answer.read()
        found[str(answer.status)] += 1


def main() -> None:
    """Flood, and print the answers."""
    url, ca_file, seconds = sys.argv[1:]
    given, tls = json.loads(sys.stdin.readline()), ssl.create_default_context(cafile=ca_file)
    until, counts = time.monotonic() + float(seconds), [Counter[str]() for _ in range(AT_ONCE)]
    bodies: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for body in given.get("bodies", ()):
        bodies.put(body)
    threads = [
        threading.Thread(target=make, args=(url, tls, given, bodies, found))
        if "bodies" in given
        else threading.Thread(target=flood, args=(url, tls, given, until, who, found))
        for who, found in enumerate(counts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(sum(counts, Counter())))


if __name__ == "__main__":
    main()
