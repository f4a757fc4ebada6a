"""API servers to hold to one contract: the sandbox's, run as the program that it is, and real ones.

Real ones, newest and oldest, run wherever their binaries are in the cache (see `kubernetes`). Every test works in a
namespace of its own, with an administrator's token.
"""

import itertools
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from peers.kubernetes import AVAILABLE, Kubernetes, running_kubernetes

NUMBERS = itertools.count(1)

SANDBOX_TOO = {"test_available.py", "test_contract.py", "test_contract_more.py"}
NEED_REAL = [path.name for path in Path(__file__).parent.glob("test_*.py") if path.name not in SANDBOX_TOO]
collect_ignore = [] if AVAILABLE else NEED_REAL
"""What needs a real server; `test_available` says once that there is none."""


@dataclass(frozen=True)
class Server:
    """One API server: its URL, its CA as PEM, an administrator's token; the folder with the keys of a real one."""

    name: str
    url: str
    ca: str
    admin_token: str = field(repr=False)
    folder: Path | None = None

    def client(self, token: str | None = None) -> httpx.Client:
        """A client that speaks with a token, or with none."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        context = ssl.create_default_context(cadata=self.ca)
        return httpx.Client(base_url=self.url, verify=context, headers=headers, timeout=30)


@pytest.fixture(scope="session", params=["sandbox", *AVAILABLE])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for the whole run."""
    directory: Path = tmp_path_factory.mktemp("apiserver")
    run = run_sandbox if request.param == "sandbox" else run_kubernetes
    with run(request.param, directory) as server:
        yield server


@pytest.fixture(scope="session", params=AVAILABLE[:1])
def own_kubernetes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    """One for those who speak of a whole cluster: what is installed in it, who is in it. The newest, unless told."""
    with running_kubernetes(request.param, tmp_path_factory.mktemp("own")) as found:
        yield found


@contextmanager
def run_sandbox(name: str, directory: Path) -> Iterator[Server]:
    command = [
        sys.executable,
        "-m",
        "exclave_sandbox.apiserver.main",
        "--listen",
        "127.0.0.1:0",
        "--directory",
        directory,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip().removeprefix("listening on ")
            ca, token = ((directory / name).read_text() for name in ("ca.pem", "admin.token"))
            yield Server(name, url, ca, token)
        finally:
            process.kill()


@contextmanager
def run_kubernetes(release: str, directory: Path) -> Iterator[Server]:
    with running_kubernetes(release, directory) as found:
        yield Server(release, found.url, found.ca, found.admin_token, directory)


@pytest.fixture
def admin(server: Server) -> Iterator[httpx.Client]:
    """A client of the administrator."""
    with server.client(server.admin_token) as client:
        yield client


@pytest.fixture
def namespace(admin: httpx.Client) -> Iterator[str]:
    """The name of a namespace for one test."""
    name = f"contract-{next(NUMBERS)}"
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    assert admin.post("/api/v1/namespaces", json=body).status_code == 201
    yield name
    admin.delete(f"/api/v1/namespaces/{name}")
