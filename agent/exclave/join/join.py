"""Becoming a member, in steps that may each be repeated: after a crash, a lost answer, or a refusal.

What is stored is not requested again, so the same token works until `membership.json`, the last file, exists.
At most ten requests. No error holds a token or a key.
"""

import hashlib
import os
import random
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.api.csr import csr_sha256, make_csr
from exclave.api.delivery import delivery_key_text, unseal
from exclave.api.join_token import JoinToken, decode_token, order_of_trial
from exclave.api.member import MemberView, heartbeat_request, member_object, view_member
from exclave.api.names import SETTINGS_KEY, settings_name
from exclave.api.requests import CONFIG_MAPS, MEMBERS, Object, Request, create, get, is_transient
from exclave.api.settings import NOT_THE_CONTROLLERS, Settings, digest, parse_settings
from exclave.cluster import server_addresses
from exclave.cluster.client import Cluster, open_cluster
from exclave.cluster.credential import Credential, read_token_times, render_credential
from exclave.cluster.endpoint import Access
from exclave.cluster.member_cluster import FILE as CREDENTIAL
from exclave.cluster.member_cluster import load_credential
from exclave.config import Config
from exclave.errors import ApiRefusal, ClusterError, ExclaveError, HostError
from exclave.identity.storage import generate_key, key_text, load_next_key, remove_identity, store_next_key, store_svid
from exclave.identity.svid import SvidError, check_svid, renew_at
from exclave.join import refusals
from exclave.kit.host.files import make_folder, remove, write_atomic
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.wall_clock import Now
from exclave.member import record as files
from exclave.member.addresses import find_address
from exclave.member.facts import read_boot_identity, read_facts, read_machine_hash
from exclave.member.record import JoinRecord, MembershipRecord
from exclave.milestones import Joining, log_milestone

FIRST_POLL, LONGEST_POLL = 0.1, 2.0  # seconds between polls of the own Member: doubled from first to longest

Report = Callable[[str], None]


async def join(token_text: str, config: Config, now: Now, report: Report) -> MembershipRecord:
    """Make this machine a member, or continue an earlier attempt. `report` gets a line for a person at each step.

    Raises TokenError, ClusterError, HostError.
    """
    token, state = decode_token(token_text), config.paths.state
    sha256 = hashlib.sha256(token_text.strip().encode()).hexdigest()
    make_folder(state, 0o700)
    make_folder(config.paths.runtime, 0o755)
    under_way = files.load_join(state)
    if (membership := files.load_membership(state)) is not None:
        if under_way is None or under_way.token_sha256 != sha256:
            raise refusals.already_member(membership.namespace, membership.member)
        files.forget_join(state)  # the only step that was missing
        return membership
    if under_way is None or under_way.token_sha256 != sha256:
        under_way = _begin(state, token, sha256)
    bearer = Latest(token.token)  # first the join token, later the credential
    access = _access_of(token, config)
    async with open_cluster(access, lambda: bearer.value, now) as cluster:
        return await _Joining(token, access, under_way, config, cluster, bearer, now, report).run()


def _access_of(token: JoinToken, config: Config) -> Access:
    proxy = files.chosen_proxy(config.cluster, token.proxy, os.environ)
    try:
        return Access(token.servers, token.ca, token.tls_name, proxy)
    except ValueError as problem:
        raise refusals.malformed(token, str(problem)) from None


def _begin(state: Path, token: JoinToken, sha256: str) -> JoinRecord:
    """Store nonce and keys before the first request; first remove files of another token's attempt."""
    files.forget_join(state)
    files.forget_membership(state)
    server_addresses.forget_answers(state)
    remove(state / CREDENTIAL)
    remove_identity(state)
    nonce = secrets.token_hex(16)
    first = order_of_trial(token.member_names, nonce)[0]
    record = JoinRecord(nonce, first, sha256, key_text(generate_key()))
    _make_next_key(state, record.member)
    files.store_join(state, record)
    log_milestone(Joining.KEYS)
    return record


def _make_next_key(state: Path, member: str) -> tuple[ec.EllipticCurvePrivateKey, str]:
    key = generate_key()
    csr = make_csr(key, member)
    store_next_key(state, key, csr)
    return key, csr


class _Joining:
    """One attempt. Every step first checks what is already stored."""

    def __init__(
        self,
        token: JoinToken,
        access: Access,
        record: JoinRecord,
        config: Config,
        cluster: Cluster,
        bearer: Latest[str],
        now: Now,
        report: Report,
    ) -> None:
        self._token = token
        self._access = access
        self._record = record
        self._config = config
        self._state = config.paths.state
        self._cluster = cluster
        self._bearer = bearer
        self._now = now
        self._report = report
        self._address = ""
        self._last_report = ""  # the last reported progress, for a person

    async def run(self) -> MembershipRecord:
        """Run all remaining steps. Raises TokenError, ClusterError, HostError."""
        try:
            credential = load_credential(self._state / CREDENTIAL)
        except HostError:
            credential = None  # not stored yet, or damaged
        self._address = await self._find_address()
        with trio.move_on_after(refusals.PATIENCE):
            if credential is not None and await self._is_accepted(credential):
                view = view_member(await self._ask(get(MEMBERS, *self._place)))
            else:
                if self._now() >= self._token.expires:
                    raise refusals.expired(self._token)
                view = await self._be_admitted()
                log_milestone(Joining.ADMITTED)
                self._bearer.set(self._accept_credential(view).token)
            settings = await self._fetch_settings(view)
            self._accept_certificate(view, settings)
            await self._ask(await self._heartbeat())
            log_milestone(Joining.HEARTBEAT)
            return await self._finish()
        raise refusals.not_admitted(*self._place, self._last_report)

    @property
    def _place(self) -> tuple[str, str]:
        return self._token.namespace, self._record.member

    async def _ask(self, request: Request, *, first: bool = False) -> Object:
        """Send, and retry while that may help. The `first` request fails at once if no server is reached."""
        pause = FIRST_POLL
        while True:
            try:
                return await self._cluster.send(request)
            except ClusterError as problem:
                if not is_transient(problem) or (first and not isinstance(problem, ApiRefusal)):
                    raise self._translated(problem) from None
                self._last_report = problem.message
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_POLL)

    def _translated(self, problem: ClusterError) -> ExclaveError:
        server, skew = self._cluster.server, self._cluster.skew
        return refusals.translated(problem, self._token, self._now(), server, skew)

    async def _be_admitted(self) -> MemberView:
        """Create a Member with our nonce, which shows later that it is ours; wait until the controller admits it."""
        while True:
            await self._create()
            if (view := await self._poll()) is not None:
                return view
            # Abandoned and refused Members are deleted. The name is free again.

    async def _create(self) -> None:
        names = order_of_trial(self._token.member_names, self._record.nonce)
        for name in names[names.index(self._record.member) :]:
            if name != self._record.member:
                self._remember(replace(self._record, member=name))
            body = await self._member_object()
            try:
                await self._ask(create(MEMBERS, self._token.namespace, body), first=True)
            except ApiRefusal as refusal:
                if refusal.status != 409:
                    raise
                found = await self._read_member()
                if found is None:
                    return await self._create()  # the name is free by now
                if found.nonce != self._record.nonce:
                    if self._token.is_for_one:
                        await self._wait_gone()
                        return await self._create()
                    continue
                if refusals.read_refusal(found, self._token) is not None:
                    await self._wait_refused_gone()
                    return await self._create()
            skew = self._cluster.skew
            if skew is not None and abs(skew) > refusals.MOST_SKEW:
                raise refusals.clocks_differ(self._cluster.server, skew)
            log_milestone(Joining.CREATED)
            self._report(f"Member {self._token.namespace}/{name} stands, waiting for the controller to admit it")
            return None
        self._remember(replace(self._record, member=names[0]))  # one of them may be free by then
        raise refusals.used_up(self._token)

    async def _wait_gone(self) -> None:
        """Wait until the former Member of this name is deleted, after its ports are withdrawn. Raises TokenError."""
        self._report(f"waiting for what was Member {'/'.join(self._place)} to be gone")
        self._last_report = "the Member that had this name is still being deleted"
        try:
            while view_member(await self._ask(get(MEMBERS, *self._place))).deleting:  # noqa: ASYNC110  another machine's API
                await trio.sleep(LONGEST_POLL)
        except ApiRefusal as refusal:
            if refusal.status == 404:
                return
            raise
        raise refusals.used_up(self._token)

    async def _wait_refused_gone(self) -> None:
        """Wait until our Member, which was refused at an earlier attempt, is deleted, or is not refused any more."""
        self._report(f"waiting for Member {'/'.join(self._place)}, which was refused, to be gone")
        self._last_report = "the Member that was refused before is not deleted yet"
        while (found := await self._read_member()) is not None:
            if refusals.read_refusal(found, self._token) is None:  # an admission policy that was missing is back
                return
            await trio.sleep(LONGEST_POLL)

    async def _read_member(self) -> MemberView | None:
        """The Member of our name; None if it was deleted just now."""
        try:
            return view_member(await self._ask(get(MEMBERS, *self._place)))
        except ApiRefusal as refusal:
            if refusal.status == 404:
                return None
            raise

    async def _member_object(self) -> Object:
        _, csr = load_next_key(self._state) or _make_next_key(self._state, self._record.member)
        return member_object(
            *self._place,
            nonce=self._record.nonce,
            machine_hash=await read_machine_hash(),
            delivery_key=delivery_key_text(self._delivery_key),
            csr=csr,
            addresses=[self._address],
            facts=await read_facts(self._config.member.zone),
        )

    async def _poll(self) -> MemberView | None:
        """Poll until the Member is admitted; None if it is deleted. Raises the controller's refusal."""
        pause = FIRST_POLL
        while True:
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_POLL)
            try:
                view = view_member(await self._ask(get(MEMBERS, *self._place)))
            except ApiRefusal as refusal:
                if refusal.status == 404:
                    return None
                raise
            if (refused := refusals.read_refusal(view, self._token)) is not None:
                self._remember(replace(self._record, refusal=refused.fault.word))
                raise refused
            self._last_report = view.admitted.message if view.admitted else "it has said nothing yet"
            if view.admitted is not None and view.admitted.status and view.credential and view.certificate:
                return view

    def _accept_credential(self, view: MemberView) -> Credential:
        try:
            token = unseal(view.credential or "", self._delivery_key)
            issued, ends = read_token_times(token)
        except ValueError as problem:
            raise refusals.unusable("the credential", str(problem)) from None
        credential = Credential(token, self._now(), self._now() + max(0.0, ends - issued))
        write_atomic(self._state / CREDENTIAL, render_credential(credential).encode())
        log_milestone(Joining.CREDENTIAL)
        self._report(f"admitted as {view.name}; the credential is stored")
        return credential

    async def _is_accepted(self, credential: Credential) -> bool:
        """Try the credential of an earlier attempt; remove it and its certificate if the account is gone."""
        self._bearer.set(credential.token)
        try:
            await self._cluster.send(await self._heartbeat())
        except ClusterError as problem:
            if not isinstance(problem, ApiRefusal) or problem.status != 401:
                raise self._translated(problem) from None
        else:
            return True
        remove(self._state / CREDENTIAL)
        remove_identity(self._state)
        self._bearer.set(self._token.token)
        return False

    async def _fetch_settings(self, view: MemberView) -> Settings:
        """The settings whose digest is in the Member's status: others may write the ConfigMap, but not the status."""
        stored, name = files.load_settings(self._state), settings_name(self._token.group)
        while True:
            if stored is not None and view.settings == stored[1]:
                return stored[0]
            text = await self._read_settings(name) if view.settings is not None else None
            if text is not None and digest(text) == view.settings:
                break
            if text is not None:
                self._last_report = f"ConfigMap {name} {NOT_THE_CONTROLLERS}"
            await trio.sleep(LONGEST_POLL)
            view = view_member(await self._ask(get(MEMBERS, *self._place)))
        try:
            settings = parse_settings(text)
        except ValueError as problem:
            raise refusals.unusable("settings", str(problem)) from None
        files.store_settings(self._state, text)
        log_milestone(Joining.SETTINGS)
        return settings

    async def _read_settings(self, name: str) -> str | None:
        """The text in the ConfigMap; None if there is no ConfigMap yet."""
        try:
            found = await self._ask(get(CONFIG_MAPS, self._token.namespace, name))
        except ApiRefusal as refusal:
            if refusal.status != 404:
                raise
            self._last_report = refusal.message
            return None
        return str((found.get("data") or {}).get(SETTINGS_KEY, ""))

    def _accept_certificate(self, view: MemberView, settings: Settings) -> None:
        under_way, certificate = load_next_key(self._state), view.certificate
        if under_way is None or certificate is None or certificate.csr_sha256 != csr_sha256(under_way[1]):
            return  # already stored; or its key was lost, and the agent requests another one
        key, received = under_way[0], self._now()
        try:
            svid = check_svid(certificate.chain, key, settings.anchors, settings.identity, received)
        except SvidError as problem:
            raise refusals.unusable("the certificate", str(problem)) from None
        when = renew_at(received, svid.not_after, random.random())  # noqa: S311  spreads a fleet, protects nothing
        store_svid(self._state, certificate.chain, key, received, when)
        log_milestone(Joining.CERTIFICATE)
        self._report(f"certificate for {svid.spiffe_id}")

    async def _heartbeat(self) -> Request:
        return heartbeat_request(*self._place, await read_boot_identity(self._config.paths.runtime), self._now())

    async def _finish(self) -> MembershipRecord:
        token = self._token
        # The rules of the first boot exclude the API server's addresses, even if DNS does not work then.
        server_addresses.store_answers(
            self._state, await server_addresses.resolve_all(self._access.endpoints, server_addresses.FIRST_ANSWER)
        )
        membership = MembershipRecord(
            token.servers,
            token.ca,
            token.namespace,
            token.group,
            self._record.member,
            self._address,
            tls_name=token.tls_name,
            # An agent that systemd starts has not the environment of this command.
            proxy=self._access.proxy.url if self._access.proxy is not None else "",
        )
        files.store_membership(self._state, membership)
        log_milestone(Joining.MEMBER)
        files.forget_eviction(self._state)
        files.forget_join(self._state)
        self._report(f"joined as {token.namespace}/{self._record.member}")
        return membership

    def _remember(self, record: JoinRecord) -> None:
        files.store_join(self._state, record)
        self._record = record

    @property
    def _delivery_key(self) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key(self._record.delivery_key.encode(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key

    async def _find_address(self) -> str:
        servers, override = self._access.endpoints, self._config.member.address
        answers = await server_addresses.resolve_all(servers, server_addresses.LOOKUP) if override is None else {}
        found = find_address(server_addresses.list_addresses(servers, answers), override)
        if found is None:
            raise refusals.no_address(servers)
        self._report(str(found))
        return found.address
