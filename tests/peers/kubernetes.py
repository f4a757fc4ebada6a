"""A real Kubernetes for tests: etcd, kube-apiserver and kube-controller-manager on loopback, with keys of their own.

The command lines are the demo's (`exclave_sandbox.stage.control_plane`). Every port is a free one. All files go into
one folder. Each program can be ended, killed and started again while the block runs, by its process id.
"""

import json
import os
import secrets
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from exclave.api.definitions.crds import custom_resource_definitions
from exclave_sandbox.linkerd.external_workload import external_workload_definition
from exclave_sandbox.stage.control_plane import (
    AUDIENCE,
    RELEASES,
    Binaries,
    Layout,
    apiserver_command,
    binaries_in,
    cache_folder,
    controllers_command,
    etcd_command,
    kubeconfig,
)
from exclave_sandbox.stage.kubernetes import write_keys
from support.ports import free_port

__all__ = ["AUDIENCE", "AVAILABLE", "RELEASES", "Kubernetes", "cache", "find_binaries", "running_kubernetes"]

START_TIME = 120.0


class Part:
    """One program of it."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.command = command
        self.log = log
        self._started: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._started is not None
        return self._started.pid

    def start(self) -> None:
        """Start it, once more."""
        with self.log.open("ab") as output:
            self._started = subprocess.Popen(
                self.command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, and wait until it has ended."""
        if self._started is None:
            return
        self._started.send_signal(number)
        try:
            self._started.wait(10)
        except subprocess.TimeoutExpired:
            self._started.kill()
            self._started.wait()
        self._started = None


@dataclass(frozen=True)
class Kubernetes:
    """A running one: its URL, its CA (PEM), a token that may do everything, its folder and its programs."""

    url: str
    ca: str
    folder: Path
    etcd: Part
    apiserver: Part
    controllers: Part
    admin_token: str = field(repr=False)

    def wait_ready(self) -> None:
        """Wait until the API server says that it is."""
        deadline = time.monotonic() + START_TIME
        with self.client() as client:
            while True:
                try:
                    if client.get("/readyz").status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                log = self.apiserver.log
                assert time.monotonic() < deadline, f"kube-apiserver is not ready:\n{log.read_text()[-3000:]}"
                time.sleep(0.1)

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        """A client of the administrator."""
        headers = {"Authorization": f"Bearer {self.admin_token}"}
        tls = ssl.create_default_context(cadata=self.ca)
        with httpx.Client(base_url=self.url, verify=tls, headers=headers, timeout=30, trust_env=False) as client:
            yield client


def cache() -> Path:
    """Where binaries are kept."""
    return cache_folder(os.environ, Path.home())


def find_binaries(release: str) -> Binaries | None:
    """The programs of a release, None if they have not been built here."""
    found = binaries_in(cache(), release)
    return found if all(path.is_file() for path in found.all) else None


AVAILABLE = [release for release in RELEASES if find_binaries(release) is not None]
"""The releases that tests can run against here."""


@contextmanager
def running_kubernetes(binaries: Binaries, folder: Path) -> Iterator[Kubernetes]:
    """Run one, with our definitions and Linkerd's ExternalWorkload in it."""
    token = secrets.token_hex(16)
    layout = Layout(folder, "127.0.0.1", *(free_port() for _ in range(3)))
    ca = write_keys(layout, token)
    (folder / "kubeconfig").write_text(json.dumps(kubeconfig(layout.url, ca, token)))
    kubernetes = Kubernetes(
        layout.url,
        ca,
        folder,
        Part(etcd_command(binaries, layout), folder / "etcd.log"),
        Part(apiserver_command(binaries, layout), folder / "apiserver.log"),
        Part(controllers_command(binaries, folder), folder / "controllers.log"),
        token,
    )
    with ExitStack() as stack:
        for part in (kubernetes.etcd, kubernetes.apiserver):
            stack.callback(part.end)
            part.start()
        kubernetes.wait_ready()
        with kubernetes.client() as client:
            for definition in (*custom_resource_definitions(), external_workload_definition()):
                define(client, definition)
        stack.callback(kubernetes.controllers.end)
        kubernetes.controllers.start()  # what is defined later, its garbage collector finds within half a minute
        yield kubernetes


def define(client: httpx.Client, definition: dict[str, Any]) -> None:
    """Install a definition, and wait until it is served."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    answer = client.post(path, json=definition)
    assert answer.status_code == 201, answer.text
    deadline = time.monotonic() + START_TIME
    while time.monotonic() < deadline:
        found = client.get(f"{path}/{definition['metadata']['name']}").json()
        if any(
            (one["type"], one["status"]) == ("Established", "True")
            for one in found.get("status", {}).get("conditions") or ()
        ):
            break
    spec = definition["spec"]
    served = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
    while client.get(served).status_code != 200:
        assert time.monotonic() < deadline, f"{served} is not served"
