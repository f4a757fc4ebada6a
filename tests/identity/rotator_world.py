"""A member whose certificates are signed in virtual time: a real MemberClient over a store, and real signatures."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio
import trio.testing

from exclave.api.csr import csr_sha256
from exclave.api.identity import MeshIdentity
from exclave.api.issuer import Issuer
from exclave.api.member import view_member
from exclave.api.requests import MEMBERS
from exclave.api.settings import Settings, render_settings
from exclave.config import Config, MemberConfig, Paths
from exclave.controller.policy.sign import sign
from exclave.ending import EndingSwitch
from exclave.identity.rotator import (
    Identity,
    open_identity,
)
from exclave.kit.formats.times import rfc3339
from exclave.kit.formats.x509 import fingerprint
from exclave.member.client import open_member
from exclave.member.record import store_membership, store_settings
from exclave_sandbox.pki import Authority
from support.mesh import ADDRESS, MEMBER, NAMESPACE, RECORD, make_settings, mesh, publish, put_member
from support.store import StoreCluster

DAY = 86400.0


class World:
    """A cluster with one member, a signer that can be told to stop or to err, and a wall clock that can jump."""

    def __init__(self, folder: Path) -> None:
        self.start = float(int(time.time()))  # now, since the mesh's own certificates are made now
        self.jumped = 0.0
        self.cluster = StoreCluster(self.now)
        self.issuer: Authority = mesh().issuer
        self.settings = replace(make_settings(mesh().anchor.pem), issuer=fingerprint(self.issuer.certificate))
        put_member(self.cluster, self.settings, csr="")
        self.state = folder / "state"
        self.config = Config(paths=Paths(self.state, folder / "run"), member=MemberConfig(ADDRESS))
        for path in (self.state, folder / "run"):
            path.mkdir(exist_ok=True)
        self.endings = EndingSwitch()
        self.identity_given: MeshIdentity | None = None
        self.lifetime = DAY
        self.signed: list[str] = []  # CSRs, in order
        self.issued: list[dict[str, str]] = []
        store_membership(self.state, RECORD)
        store_settings(self.state, render_settings(self.settings))

    def now(self) -> float:
        return self.start + self.jumped + trio.current_time()

    @asynccontextmanager
    async def identity(self, *, signs: bool = True, draw: Callable[[], float] = lambda: 0.0) -> AsyncIterator[Identity]:
        member = open_member(RECORD, self.config, self.cluster, self.endings, self.now)  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery, member as membership:
            if signs:
                nursery.start_soon(self.keep_signing)
            async with open_identity(self.state, membership, self.endings, self.now, draw) as identity:
                yield identity
            nursery.cancel_scope.cancel()

    async def keep_signing(self) -> None:
        """As the controller: what is in the spec and not yet in the status is signed, each CSR once."""
        async with self.cluster.watch(MEMBERS, NAMESPACE, MEMBER) as events:
            async for _ in events:
                found = self.cluster.find(MEMBERS, NAMESPACE, MEMBER)
                assert found is not None
                view = view_member(found)
                known = view.certificate.csr_sha256 if view.certificate else ""
                if view.csr and csr_sha256(view.csr) != known:
                    self.sign(view.csr)

    def sign(self, csr: str) -> None:
        self.signed.append(csr)
        issuer = Issuer((self.issuer.certificate,), self.issuer.key)
        identity = self.identity_given or self.settings.identity
        made = sign(csr, MEMBER, identity, self.lifetime, issuer, now=self.now(), serial=len(self.signed))
        certificate = {"csrSha256": made.csr_sha256, "chain": made.chain, "notAfter": rfc3339(made.not_after)}
        record = {"serial": f"{made.serial:x}", "keySha256": made.key_sha256, "time": rfc3339(self.now())}
        self.issued = [*self.issued, record][-5:]
        status = {"certificate": certificate, "issued": self.issued}
        self.cluster.change(MEMBERS, NAMESPACE, MEMBER, {"status": status}, "status")

    def publish(self, settings: Settings) -> None:
        self.settings = settings
        publish(self.cluster, settings)


async def serial(identity: Identity, wanted: int) -> None:
    """Wait for the certificate with this serial."""
    with trio.fail_after(10 * DAY):
        await identity.svid.wait_for(lambda svid: svid is not None and svid.serial == wanted)
