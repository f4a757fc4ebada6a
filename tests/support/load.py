"""Load for swaps, as a program: `python load.py URL WORKERS LONG RATE [SOURCE]`, with the standard library alone.

WORKERS threads open a connection for each request, LONG threads reuse one; each sends at most RATE requests a second. A
request without a 200 within ten seconds has failed, and so has a reused connection that ends early. It prints `up` once
it runs. On the line `renew` it opens all reused connections anew and prints `renewed`. At the end of its input it
prints a JSON line: counts, failures, and for each new connection its begin (seconds of CLOCK_MONOTONIC) and duration.
"""

import http.client
import json
import sys
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

PATIENCE = 10.0


class Load:
    """What is counted; one per program."""

    def __init__(self, url: str, rate: float, source: str | None) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.host, self.port, self.pause = parts.hostname, parts.port or 80, 1.0 / rate
        self.source = (source, 0) if source else None
        self.ended = threading.Event()
        self.generation = 0
        self.renewed = threading.Semaphore(0)
        self.samples: list[tuple[float, float]] = []
        self.kept = 0
        self.failures: Counter[str] = Counter()
        self.lock = threading.Lock()

    def channel(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE, source_address=self.source)

    def ask(self, channel: http.client.HTTPConnection) -> None:
        channel.request("GET", "/")
        answer = channel.getresponse()
        answer.read()
        if answer.status != 200:
            raise OSError(f"status {answer.status}: {answer.getheader('l5d-proxy-error')}")

    def fail(self, kind: str, problem: Exception) -> None:
        with self.lock:
            self.failures[f"{kind}: {type(problem).__name__}: {problem}"] += 1

    def work(self) -> None:
        """New connections."""
        while not self.ended.is_set():
            began = time.monotonic()
            channel = self.channel()
            try:
                self.ask(channel)
                with self.lock:
                    self.samples.append((began, time.monotonic() - began))
            except (OSError, http.client.HTTPException) as problem:
                self.fail("new", problem)
            channel.close()
            self.ended.wait(max(0.0, self.pause - (time.monotonic() - began)))

    def keep(self) -> None:
        """One connection that stays."""
        channel, generation = None, self.generation
        while not self.ended.is_set():
            try:
                if channel is None:
                    channel = self.channel()
                    channel.connect()
                    channel.auto_open = 0  # else a connection that was ended would be opened anew in silence
                self.ask(channel)
                with self.lock:
                    self.kept += 1
                if generation != self.generation:
                    channel.close()
                    channel, generation = None, self.generation
                    self.renewed.release()
            except (OSError, http.client.HTTPException) as problem:
                self.fail("kept", problem)
                channel = None
            self.ended.wait(self.pause)
        if channel is not None:
            channel.close()


def main() -> None:
    url, workers, long, rate, *source = sys.argv[1:]
    load = Load(url, float(rate), source[0] if source else None)
    threads = [threading.Thread(target=load.work) for _ in range(int(workers))]
    threads += [threading.Thread(target=load.keep) for _ in range(int(long))]
    for thread in threads:
        thread.start()
    while not load.samples or load.kept < int(long):
        time.sleep(0.01)
    print("up", flush=True)
    for word in sys.stdin:
        assert word == "renew\n"
        load.generation += 1
        for _ in range(int(long)):
            load.renewed.acquire()
        print("renewed", flush=True)
    load.ended.set()
    for thread in threads:
        thread.join()
    figures = {"new": len(load.samples), "kept": load.kept, "failures": dict(load.failures), "samples": load.samples}
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
