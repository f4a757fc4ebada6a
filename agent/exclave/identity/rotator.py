"""Publishes the last good certificate, from disk at once, and renews it when it is due.

A new certificate is checked, stored, then published. After a failure the last good one stays in use.
"""

import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.api.csr import csr_sha256, key_sha256, make_csr
from exclave.api.member import MAX_RENEWAL_REQUEST, Issued, RenewalResult, renewal_fields
from exclave.api.settings import Settings
from exclave.ending import Ending, EndingSwitch
from exclave.errors import ClusterError, ExclaveError, Fault
from exclave.identity import storage
from exclave.identity.svid import (
    FIRST_RETRIES,
    StoredSvid,
    Svid,
    SvidError,
    check_svid,
    outlives,
    renew_after_issuer_change,
    renew_at,
    retries,
)
from exclave.kit.formats.times import rfc3339
from exclave.kit.tasks.backoff import Attempts
from exclave.kit.tasks.latest import Latest, open_any_change
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise
from exclave.kit.tasks.wall_clock import LONGEST_NAP, Now
from exclave.member.client import MemberClient
from exclave.milestones import Renewing, log_milestone

log = logging.getLogger(__name__)

SIGNING_TIMEOUT = 60.0  # seconds for the controller to sign a request; then the attempt has failed

REQUEST_INTERVAL = 60.0
"""Seconds after a signature in which nobody may request the next one: whoever repeats a request, by hand or in a loop,
costs the controller one signature a minute. Renewals that are due do not wait for it."""


class TooSoonError(Exception):
    """A renewal was requested too soon after a signature. `left`: seconds until it may be requested."""

    def __init__(self, left: float) -> None:
        super().__init__(f"a certificate was signed less than {REQUEST_INTERVAL:.0f} s ago")
        self.left = left


@dataclass(frozen=True)
class Attempt:
    """The number of attempts to renew that have ended, and why the last one failed; None if it succeeded."""

    number: int = 0
    error: ExclaveError | None = None


def foreign_keys(issued: Sequence[Issued], own: Collection[str]) -> tuple[Issued, ...]:
    """Those of `issued` (oldest first) for foreign keys. `own` are sha256 (hex) of this machine's keys."""
    if not own:
        return ()
    # Entries before the first own key do not count: an earlier attempt of this join may have lost its key.
    first = next((index for index, one in enumerate(issued) if one.key_sha256 in own), 0)
    return tuple(one for one in issued[first:] if one.key_sha256 not in own)


def describe_foreign(issued: Sequence[Issued]) -> str | None:
    """The problem for a person; None without certificates."""
    if not issued:
        return None
    listed = ", ".join(f"{one.serial} at {one.time}" for one in issued)
    return f"certificates were signed as this member for keys that this machine does not have: {listed}"


class Identity:
    """The last good certificate. Made by `open_identity`. `renewals` counts by result (ok, failed).

    `problem`: why the last renewal failed. `foreign`: certificates signed as this member for foreign keys.
    """

    def __init__(self, state: Path, membership: MemberClient, now: Now, draw: Callable[[], float]) -> None:
        self.svid: Latest[Svid | None] = Latest(None)
        self.renew_at: Latest[float | None] = Latest(None)
        self.problem: Latest[str | None] = Latest(None)
        self.foreign: Latest[str | None] = Latest(None)
        self.renewals: Counter[str] = Counter()
        self._stored: StoredSvid | None = None
        self._signed_at: float | None = None  # when the last signature arrived (epoch seconds)
        self._attempt: Latest[Attempt] = Latest(Attempt())
        self._is_renewing = False
        self._requests: Latest[int] = Latest(0)
        self._answered_request = ""
        self._observed_issuer = ""
        self._observed_lifetime: float | None = None
        self._state = state
        self._own_keys = storage.own_keys(state)
        self._membership = membership
        self._now = now
        self._draw = draw

    def load(self) -> None:
        """Publish the certificate on disk, if it passes every check now."""
        found, settings = storage.load_svid(self._state), self._membership.settings.value
        if found is None or settings is None:
            return
        chain, key, received, when = found
        pending = storage.load_next_key(self._state)
        if pending is not None and pending[0].private_numbers() == key.private_numbers():
            # An earlier agent ended between storing the certificate and this.
            try:
                storage.forget_next_key(self._state)
            except ExclaveError as problem:  # a read-only folder: the key is not requested again, so it does no harm
                log.warning("%s", problem)
        try:
            svid = check_svid(chain, key, settings.anchors, settings.identity, self._now())
        except SvidError as problem:
            log.warning("the certificate on disk is not usable: %s", problem)
            return
        self._signed_at = received
        self._publish(StoredSvid(svid, received, when))

    async def run(self) -> None:
        """Renew whenever it is due, until cancelled. A failure is retried with growing pauses."""
        attempts = Attempts()
        while True:
            settings = await self._membership.settings.wait_for(lambda settings: settings is not None)
            assert settings is not None
            await self._wait_due()
            error = await self._attempt_renewal()
            if error is None:
                attempts.succeeded()
                continue
            log.warning("certificate not renewed, the last good one stays in use: %s", error)
            stored = self._stored
            pauses = retries(stored.svid.not_after, stored.received) if stored else FIRST_RETRIES
            with trio.move_on_after(attempts.failed(pauses, self._draw())):
                await self._requests.wait_change()

    async def _attempt_renewal(self) -> ExclaveError | None:
        """Renew, and publish the outcome. Returns why it failed."""
        error: ExclaveError | None = None
        self._is_renewing = True
        try:
            with trio.fail_after(SIGNING_TIMEOUT):
                await self._renew()
        except ExclaveError as problem:
            error = problem
        except SvidError as problem:
            hint = "read the log of exclave's controller, and compare the versions of exclave here and in the cluster"
            error = ClusterError(Fault.NOT_ADMITTED, str(problem), hint)
        except trio.TooSlowError:
            error = self._nothing_signed_error()
            if self._is_request_refused():
                storage.forget_next_key(self._state)  # the next attempt makes another key and CSR
        finally:
            self._is_renewing = False
        self.renewals["failed" if error else "ok"] += 1
        self.problem.set(error.message if error else None)
        self._attempt.set(Attempt(self._attempt.value.number + 1, error))
        return error

    async def renew_now(self) -> Svid:
        """Renew now, and return the new certificate, which the proxy then has. A renewal under way counts.

        Raises TooSoonError, and ExclaveError if the attempt failed, after `SIGNING_TIMEOUT` at most.
        """
        if self._membership.settings.value is None:
            raise ClusterError(Fault.NOT_ADMITTED, "the mesh's settings have not arrived", "see why: exclave status")
        before = self._attempt.value.number
        if not self._is_renewing:
            age = self._now() - self._signed_at if self._signed_at is not None else REQUEST_INTERVAL
            if 0 <= age < REQUEST_INTERVAL:  # a negative age: the clock was set back
                raise TooSoonError(REQUEST_INTERVAL - age)
            self.renew_at.set(self._now())
            self._requests.set(self._requests.value + 1)
        attempt = await self._attempt.wait_for(lambda attempt: attempt.number > before)
        if attempt.error is not None:
            raise attempt.error
        assert self._stored is not None
        return self._stored.svid

    async def answer_requests(self) -> None:
        """Renew when an admin asks for it in the Member, and answer there, until cancelled."""
        while True:
            request = await self._wait_for_request()
            result: RenewalResult = "renewed"
            message = ""
            try:
                svid = await self.renew_now()
                message = f"the certificate ends at {rfc3339(svid.not_after)}"
            except TooSoonError as problem:
                result, message = "too-soon", f"{problem}: ask again in {problem.left:.0f} s"
            except ExclaveError as problem:
                result, message = "failed", problem.message
            self._answered_request = request
            log.info("a renewal was requested in the Member: %s", message)
            try:
                await self._membership.patch_spec(renewal_fields(request, result, message))
            except ExclaveError as problem:
                log.warning("the request for a renewal is not answered: %s", problem)

    async def _wait_for_request(self) -> str:
        """The newest request in the Member that neither this agent nor an earlier one has answered."""
        view = await self._membership.view.wait_for(
            lambda view: (
                view is not None
                and 0 < len(view.renewal_request) <= MAX_RENEWAL_REQUEST
                and view.renewal_request != self._answered_request
                and (view.renewal is None or view.renewal.request != view.renewal_request)
            )
        )
        assert view is not None
        return view.renewal_request

    async def watch_foreign_keys(self) -> None:
        """Report certificates that were signed as this member for foreign keys, until cancelled."""
        async with open_any_change(self._membership.view, self.svid) as change:
            async for _ in change.wakes():
                if (view := self._membership.view.value) is None:
                    continue
                message = describe_foreign(foreign_keys(view.issued, self._own_keys))
                if message is not None and message != self.foreign.value:
                    log.error("%s", message)
                self.foreign.set(message)

    def _is_request_refused(self) -> bool:
        view = self._membership.view.value
        condition = view.certified if view is not None else None
        return condition is not None and not condition.status and condition.reason == "RequestRefused"

    def _nothing_signed_error(self) -> ClusterError:
        if not self._membership.reachable.value:
            text = f"the API server has not answered for {SIGNING_TIMEOUT:.0f} s"
            return ClusterError(Fault.UNREACHABLE, text, "see why: exclave status")
        hint = "check whether exclave's controller runs, and read its log: kubectl exclave check"
        view = self._membership.view.value
        condition = view.certified if view is not None else None
        if condition is not None and not condition.status:
            return ClusterError(Fault.NOT_ADMITTED, condition.message, hint)
        text = f"the controller has signed nothing for {SIGNING_TIMEOUT:.0f} s"
        return ClusterError(Fault.NOT_ADMITTED, text, hint)

    async def _wait_due(self) -> None:
        """Return when the certificate is due by the wall clock, at most `LONGEST_NAP` late after a suspension."""
        async with open_any_change(self._membership.settings, self.renew_at) as change:
            while True:
                self._advance_renewal(self._membership.settings.value)
                deadline = self.renew_at.value
                if deadline is None or deadline <= self._now():
                    return
                await change.wait(min(deadline - self._now(), LONGEST_NAP))

    def _advance_renewal(self, settings: Settings | None) -> None:
        """Renew earlier if the mesh's issuer, our names or a shorter lifetime ask for it, once for each change."""
        stored = self._stored
        if stored is None or settings is None:
            return
        identity = settings.identity
        if (stored.svid.dns_name, stored.svid.spiffe_id) != (identity.dns_name, identity.spiffe_id):
            self.renew_at.set(self._now())
        elif settings.issuer not in (stored.svid.issuer_sha256, self._observed_issuer):
            self._observed_issuer = settings.issuer
            self.renew_at.set(renew_after_issuer_change(stored, self._now(), self._draw()))
        lifetime = settings.group.certificate_lifetime
        if outlives(stored.svid, lifetime) and lifetime != self._observed_lifetime:
            # At once: the controller publishes settings to a few members a second.
            self._observed_lifetime = lifetime
            self.renew_at.set(self._now())

    async def _renew(self) -> None:
        """Request a certificate and accept it. Raises SvidError, ExclaveError."""
        key, csr = self._pending_csr()
        wanted = csr_sha256(csr)
        view = self._membership.view.value
        if view is None or view.csr != csr:
            await self._membership.patch_spec({"csr": csr})
        log_milestone(Renewing.ASKED)
        view = await self._membership.view.wait_for(
            lambda view: view is not None and view.certificate is not None and view.certificate.csr_sha256 == wanted
        )
        self._signed_at = self._now()
        settings = self._membership.settings.value
        assert view is not None and view.certificate is not None and settings is not None
        self._accept(view.certificate.chain, key, settings)

    def _pending_csr(self) -> tuple[ec.EllipticCurvePrivateKey, str]:
        pending, served = storage.load_next_key(self._state), storage.load_svid(self._state)
        # If a crash left the served key pending, its request would only return the served certificate again.
        if pending is not None and (served is None or served[1].private_numbers() != pending[0].private_numbers()):
            return pending
        key = storage.generate_key()
        self._own_keys.add(key_sha256(key.public_key()))
        csr = make_csr(key, self._membership.record.member)
        storage.store_next_key(self._state, key, csr)
        log_milestone(Renewing.KEY)
        return key, csr

    def _accept(self, chain: str, key: ec.EllipticCurvePrivateKey, settings: Settings) -> None:
        """Check, store and publish. After a failed check, the next attempt uses a new key."""
        received = self._now()
        try:
            svid = check_svid(chain, key, settings.anchors, settings.identity, received)
        except SvidError:
            storage.forget_next_key(self._state)
            storage.record_key(self._state, key)
            raise
        log_milestone(Renewing.ANSWERED)
        when = renew_at(received, svid.not_after, self._draw())
        storage.store_svid(self._state, chain, key, received, when)
        self._publish(StoredSvid(svid, received, when))
        log.info("certificate %x: %.0f s, renewal in %.0f s", svid.serial, svid.not_after - received, when - received)

    def _publish(self, stored: StoredSvid) -> None:
        self._stored = stored
        self.renew_at.set(stored.renew_at)
        self.svid.set(stored.svid)


@asynccontextmanager
async def open_identity(
    state: Path, membership: MemberClient, endings: EndingSwitch, now: Now, draw: Callable[[], float] = random.random
) -> AsyncIterator[Identity]:
    """Publish this member's certificate while open; remove it on leave. `draw` returns numbers in [0, 1)."""
    identity = Identity(state, membership, now, draw)
    identity.load()
    async with open_bare_nursery() as nursery:
        nursery.start_soon(supervise, "certificate", identity.run)
        nursery.start_soon(supervise, "keys", identity.watch_foreign_keys)
        nursery.start_soon(supervise, "requested renewals", identity.answer_requests)
        try:
            yield identity
        finally:
            nursery.cancel_scope.cancel()
            if endings.value is Ending.LEAVE:
                storage.remove_identity(state)
