"""An admin who runs commands: `kubectl exclave …`, through the real kubectl, against some API server.

    admin = Admin(kubeconfig)
    typed = admin.type("group", "list", "-A")
    assert (typed.code, typed.out) == (0, "…")

kubectl is the one that the real servers' cache holds; without it these tests are skipped.
"""

import base64
import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from exclave.admin.kubectl import Kubectl
from exclave.admin.main import main
from exclave.admin.objects import Manifest
from exclave.api.requests import path_of
from peers.conftest import Server
from peers.kubernetes import RELEASES, cache
from support.needs import need

KUBECTL = cache() / RELEASES["1.37"] / "kubectl"


class Typed(NamedTuple):
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


class Admin:
    """An admin with a kubeconfig, who calls the program by a name."""

    def __init__(self, kubeconfig: Path, program: str = "kubectl-exclave") -> None:
        need(KUBECTL.is_file(), f"kubectl has not been built: {KUBECTL}")
        self.kubeconfig = kubeconfig
        self.program = program

    @property
    def kubectl(self) -> Kubectl:
        return Kubectl(kubeconfig=str(self.kubeconfig), binary=str(KUBECTL))

    def type(self, *arguments: str, search: str = str(KUBECTL.parent)) -> Typed:
        """Type a command; `search` is where programs are found."""
        out, err = io.StringIO(), io.StringIO()
        environment = {**os.environ, "PATH": search, "KUBECONFIG": str(self.kubeconfig)}
        with mock.patch.dict(os.environ, environment, clear=True), mock.patch("sys.argv", [self.program]):
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    code = main(arguments)
                except SystemExit as ended:  # argparse
                    code = int(ended.code or 0)
        return Typed(code, out.getvalue(), err.getvalue())

    def rows(self, *arguments: str) -> list[dict[str, str]]:
        """The rows of a table by their titles."""
        typed = self.type(*arguments)
        assert typed.code == 0, typed.err
        titles, *lines = (line.split() for line in typed.out.splitlines())
        return [dict(zip(titles, line, strict=False)) for line in lines]


def write_program(path: Path, script: str) -> None:
    """Write a shell script in place of a program."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def put(server: Server, manifest: list[Manifest]) -> None:
    """Create objects without kubectl, which takes time for each; existing ones stay as they are."""
    with server.client(server.admin_token) as client:
        for one in manifest:
            answer = client.post(path_of(one.resource, one.namespace), json=one.body)
            assert answer.status_code in (201, 409), answer.text


def admin_of(of: Server, folder: Path, token: str | None = None, **cluster: Any) -> Admin:
    """An admin of a server: one who may do everything, or the owner of this token."""
    ca = base64.b64encode(of.ca.encode()).decode()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "c", "cluster": {"server": of.url, "certificate-authority-data": ca, **cluster}},
        ],
        "users": [{"name": "u", "user": {"token": token or of.admin_token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    folder.mkdir(parents=True, exist_ok=True)
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(json.dumps(config))
    return Admin(kubeconfig)
