"""Latency and throughput through exclave, compared with the same proxy started by hand. No speed fails this test.

Both sides are measured in turn, pair by pair, in one run. Figures and ratios are medians of all pairs.
"""

import json
import statistics
import sys
from pathlib import Path

from exclave_sandbox.linkerd.release import LinkerdBinaries
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.namespaces import Machine
from exclave_sandbox.stage.programs import module, open_program
from exclave_sandbox.stage.stage import DemoStage, fetch
from real import by_hand
from real.mesh import change_group, open_mesh, wait_listed
from support.figures import add_figure

PROGRAMS = Path(__file__).with_name("programs")
PORTS = {"http": mesh.GROUP_PORT, "fast": 9090, "tcp": 5432, "grpc": 50051}
PROTOCOLS = {
    "HTTP/1.1": ("http1", "fast", "requests/s"),
    "HTTP/2": ("http2", "fast", "requests/s"),
    "gRPC": ("grpc", "grpc", "calls/s"),
    "TCP": ("tcp", "tcp", "MB/s"),
}
PAIRS, SECONDS = 7, 0.7


async def test_exclave_is_compared_with_a_proxy_started_by_hand(release: LinkerdBinaries) -> None:
    numbers = (str(PORTS[name]) for name in ("fast", "tcp", "grpc"))
    serve = (sys.executable, str(PROGRAMS / "serve.py"), *numbers)
    async with open_mesh(release) as stage, by_hand.open_by_hand(stage, release, PORTS) as other:
        ports = [{"name": name, "port": port, "opaque": name == "tcp"} for name, port in PORTS.items()]
        vm, log = stage.vm.machine, stage.scratch / "serve.log"
        async with (
            open_program(vm.command(*serve), log),
            open_program(other.command(*serve), log),
            open_program(stage.pod.command(*serve), log),
            open_program(other.command(*module("exclave_sandbox.stage.echo", by_hand.NAME, str(PORTS["http"]))), log),
        ):
            await change_group(stage, {"ports": ports})
            await wait_listed(stage, PORTS)
            await _expect_meshed(stage, other)
            for protocol in PROTOCOLS:
                await _compare(f"{protocol} to the VM", protocol, [(stage.pod, mesh.VM), (stage.pod, by_hand.ADDRESS)])
                await _compare(f"{protocol} to the pod", protocol, [(vm, mesh.POD), (other, mesh.POD)])


async def _expect_meshed(stage: DemoStage, other: Machine) -> None:
    """Both VMs receive and send with TLS, so that the same work is measured."""
    pod, vm, pods = stage.pod, stage.vm.machine, f"http://{mesh.POD}:{mesh.POD_PORT}/"
    for machine, url in (
        (pod, f"http://{mesh.VM}:{mesh.GROUP_PORT}/"),
        (pod, f"http://{by_hand.ADDRESS}:{mesh.GROUP_PORT}/"),
        (vm, pods),
        (other, pods),
    ):
        assert (await fetch(machine, url))["client_id"], (machine.name, url)


async def _compare(title: str, protocol: str, sides: list[tuple[Machine, str]]) -> None:
    """Measure both sides in turn, each as often first as second, and add their figures."""
    unit = PROTOCOLS[protocol][2]
    pairs = []
    for number in range(PAIRS):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        measured = {side: await _measure(protocol, *sides[side]) for side in order}
        pairs.append((measured[0], measured[1]))
    for index, (what, named) in enumerate((("latency", "ms"), ("throughput", unit))):
        ours, theirs = (statistics.median(pair[side][index] for pair in pairs) for side in (0, 1))
        ratio = statistics.median(pair[0][index] / pair[1][index] for pair in pairs)
        add_figure(f"{title}: {what} {ours:.3g} {named}, by hand {theirs:.3g} {named}, ratio {ratio:.2f}")


async def _measure(protocol: str, machine: Machine, address: str) -> tuple[float, float]:
    """Latency and throughput of one side."""
    program, port, _ = PROTOCOLS[protocol]
    words = (program, address, str(PORTS[port]), str(SECONDS))
    done = await machine.run(sys.executable, str(PROGRAMS / "measure.py"), *words)
    assert done.status == 0, (protocol, machine.name, address, done.errors)
    latency, throughput = json.loads(done.output)
    return latency, throughput
