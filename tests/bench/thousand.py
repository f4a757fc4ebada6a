"""A thousand renewals in a row: the real identity, its files, the real Workload API, and a client of it.

Time runs fast: trio's clock and the wall clock that the identity is given move together, `RATE` times the real one.
"""

import gc
import logging
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import trio
import trio.testing
from tests.bench.figures import heading, note, row

from exclave.api.issuer import Issuer
from exclave.api.member import Certificate, MemberView
from exclave.api.settings import Settings
from exclave.controller.policy.sign import sign
from exclave.ending import EndingSwitch
from exclave.identity.rotator import open_identity
from exclave.kit.formats.x509 import read_blocks, read_certificates
from exclave.kit.tasks.latest import Latest
from exclave.workload_api.server import open_workload_api
from exclave_sandbox.standin.identity import fetch_svids
from support.mesh import RECORD, make_settings, mesh

RATE = 100.0
LIFETIME = 10.0
WARM, ALL = 100, 1000


class Controller:
    """Signs each CSR at once, with the controller's code and without a cluster."""

    def __init__(self, settings: Settings, now: Any) -> None:
        self.record = RECORD
        self.settings = Latest[Settings | None](settings)
        self.view = Latest[MemberView | None](MemberView(RECORD.member))
        self._now = now
        self._serial = 0
        made = mesh()
        self._issuer = Issuer(tuple(read_certificates(made.issuer.pem)), made.issuer.key)

    async def patch_spec(self, spec: dict[str, Any]) -> None:
        """Accept a CSR."""
        self._serial += 1
        settings, view = self.settings.value, self.view.value
        assert settings is not None and view is not None
        signed = sign(
            spec["csr"], RECORD.member, settings.identity, LIFETIME, self._issuer, now=self._now(), serial=self._serial
        )
        certificate = Certificate(signed.csr_sha256, signed.chain, "")
        self.view.set(replace(view, csr=spec["csr"], certificate=certificate))


async def renew(folder: Path, now: Any) -> None:
    """Print the memory and files of the process after some renewals, and after all."""
    process = psutil.Process()
    settings = make_settings(mesh().anchor.pem)
    controller = Controller(settings, now)
    taken = 0
    async with open_identity(folder, controller, EndingSwitch(), now) as identity:  # type: ignore[arg-type]
        await identity.svid.wait_for(lambda svid: svid is not None)
        socket = folder / "workload.sock"
        async with open_workload_api(
            socket, identity.svid, lambda: read_blocks(settings.anchors), frozenset({os.getuid()})
        ):
            figures = {}
            async for _ in fetch_svids(str(socket)):
                taken += 1
                if taken in (WARM, ALL):
                    gc.collect()
                    figures[taken] = (process.memory_info().rss / 1e6, process.num_fds(), len(gc.get_objects()))
                if taken >= ALL:
                    break
    row(f"memory (RSS) after {ALL} renewals; peer: after {WARM}", figures[ALL][0], "MB", figures[WARM][0])
    row(f"descriptors after {ALL} renewals; peer: after {WARM}", figures[ALL][1], "", figures[WARM][1])
    row(f"Python objects after {ALL} renewals; peer: after {WARM}", figures[ALL][2], "", figures[WARM][2])
    row("renewals that were made", identity.renewals["ok"], "")
    row("renewals that failed", identity.renewals["failed"], "")
    note("each one: new key, CSR, signature, all checks, stored with fsync, pushed to a client over the Workload API")


def main() -> None:
    """Print the figures."""
    logging.basicConfig(level=logging.ERROR)
    heading("A thousand renewals")
    clock = trio.testing.MockClock(rate=RATE)
    with tempfile.TemporaryDirectory() as folder:
        started = 1.8e9

        def now() -> float:
            return started + clock.current_time()

        trio.run(renew, Path(folder), now, clock=clock, strict_exception_groups=True)


if __name__ == "__main__":
    main()
