"""Ports whose server speaks first, with the real Linkerd: a port that is not opaque where it must be costs 10 s."""

import sys
from typing import Any

import trio

from exclave.api.member import read_conditions
from exclave.api.requests import SERVICES, WORKLOAD_GROUPS, create, get, patch
from exclave_sandbox.expect import eventually
from exclave_sandbox.linkerd.release import LinkerdBinaries
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.programs import open_program
from exclave_sandbox.stage.stage import DemoStage
from real.mesh import change_group, open_mesh, wait_listed
from support.figures import add_figure

FLAGGED, DEFAULT = 7000, 3306
"""A port that only the group calls opaque, and one of Linkerd's own list."""

ANNOTATED, OTHER = "10.96.0.81", "10.96.0.82"
"""Services for the flagged port, with and without the annotation."""

LISTED = 300.0  # seconds; the controller lists Services every two minutes
DETECTION = 10.0  # seconds for which a proxy waits for the client's first bytes
OPAQUE = "config.linkerd.io/opaque-ports"

SPEAKS_FIRST = """
import socketserver, sys
class First(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"hello")
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("0.0.0.0", int(sys.argv[1])), First).serve_forever()
"""

LISTENS = """
import socket, sys, time
began = time.monotonic()
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30) as connection:
    assert connection.recv(5) == b"hello"
print(time.monotonic() - began)
"""


async def first_bytes(stage: DemoStage, name: str, host: str, port: int) -> float:
    """The seconds until a pod has the server's first bytes."""
    took = float(await stage.pod.must(sys.executable, "-I", "-c", LISTENS, host, str(port)))
    add_figure(f"a server that speaks first, {name}: {took:.2f} s")
    return took


def service(name: str, address: str, annotations: dict[str, str]) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": mesh.NAMESPACE, "annotations": annotations},
        "spec": {
            "clusterIP": address,
            "selector": {"app": mesh.GROUP},
            "ports": [{"name": "db", "port": FLAGGED, "targetPort": FLAGGED, "protocol": "TCP"}],
        },
    }


async def difference(stage: DemoStage) -> str:
    """What the group's condition reports of Services that differ; "" if none does."""
    found = await stage.admin.send(get(WORKLOAD_GROUPS, mesh.NAMESPACE, mesh.GROUP))
    conditions = {one.type: one for one in read_conditions((found.get("status") or {}).get("conditions"))}
    agree = conditions.get("OpaquePortsAgree")
    return agree.message if agree is not None and not agree.status else ""


async def test_a_server_that_speaks_first_is_not_delayed(release: LinkerdBinaries) -> None:
    async with open_mesh(release) as stage, trio.open_nursery() as nursery:
        for port in (FLAGGED, DEFAULT):
            command = stage.vm.machine.command(sys.executable, "-I", "-c", SPEAKS_FIRST, str(port))
            await nursery.start(_run, command, stage.scratch / f"server-{port}.log")
        http = {"name": "http", "port": mesh.GROUP_PORT}
        ports = [http, {"name": "db", "port": FLAGGED, "opaque": True}, {"name": "mysql", "port": DEFAULT}]
        await stage.admin.send(create(SERVICES, mesh.NAMESPACE, service("db", ANNOTATED, {OPAQUE: str(FLAGGED)})))
        await change_group(stage, {"ports": ports})
        await wait_listed(stage, {"http": mesh.GROUP_PORT, "db": FLAGGED, "mysql": DEFAULT})
        assert await first_bytes(stage, "by address, in Linkerd's list", mesh.VM, DEFAULT) < DETECTION / 2
        assert await first_bytes(stage, "by address, flagged", mesh.VM, FLAGGED) < DETECTION / 2
        assert await first_bytes(stage, "by Service, flagged and annotated", ANNOTATED, FLAGGED) < DETECTION / 2
        assert await difference(stage) == ""

        await stage.admin.send(create(SERVICES, mesh.NAMESPACE, service("other", OTHER, {})))
        with trio.fail_after(LISTED):
            text = str(await eventually("a Service that differs", lambda: difference(stage), bool, 0.5))
        assert f"kubectl -n {mesh.NAMESPACE} annotate --overwrite service other {OPAQUE}=" in text
        await first_bytes(stage, "by Service, flagged and not annotated", OTHER, FLAGGED)
        await stage.admin.send(
            patch(SERVICES, mesh.NAMESPACE, "other", {"metadata": {"annotations": {OPAQUE: "7000"}}})
        )
        with trio.fail_after(LISTED):
            await eventually("no Service that differs", lambda: difference(stage), lambda found: found == "", 0.5)
        assert await first_bytes(stage, "by Service, annotated as reported", OTHER, FLAGGED) < DETECTION / 2
        nursery.cancel_scope.cancel()


async def _run(command: list[str], log: Any, *, task_status: "trio.TaskStatus[None]") -> None:
    async with open_program(command, log):
        task_status.started()
        await trio.sleep_forever()
