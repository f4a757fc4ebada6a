"""The files of a membership, in the state folder. `join.json` is a join under way.

`membership.json` makes this machine a member: written last in a join, removed last in a leave.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from exclave.api.names import accounts_namespace, parse_member_name
from exclave.api.settings import Settings, digest, parse_settings
from exclave.cluster.endpoint import Access
from exclave.cluster.http_proxy import HttpProxy, choose_proxy
from exclave.config import ClusterConfig
from exclave.errors import Fault, HostError
from exclave.kit.formats.json_text import parse_json
from exclave.kit.host.files import move, remove, write_atomic
from exclave.milestones import Leaving, log_milestone

AGAIN = "again"  # folder in the state folder for a join during a membership

MEMBERSHIP, JOIN, SETTINGS, EVICTION = "membership.json", "join.json", "settings.json", "evicted.json"
ANSWER = "last-answer.json"


@dataclass(frozen=True)
class MembershipRecord:
    """This machine's member, group and cluster."""

    servers: tuple[str, ...]
    ca: str
    namespace: str
    group: str
    member: str
    address: str = ""  # in the Member, or going to be patched into it
    leaving: bool = False
    former: str = ""  # the previous address, while pods may still use it
    tls_name: str = ""  # of the API servers' certificates
    proxy: str = ""  # URL of the HTTP proxy that the join used

    @property
    def access(self) -> Access:
        """The access to its cluster, without a proxy."""
        return Access(self.servers, self.ca, self.tls_name)

    def access_through(self, state: Path, config: ClusterConfig, environment: Mapping[str, str]) -> Access:
        """The same, with all CAs of `trusted_cas`, and through the HTTP proxy that is configured, if there is one."""
        proxy = chosen_proxy(config, self.proxy, environment)
        return replace(self.access, ca=trusted_cas(state, self), proxy=proxy)

    @property
    def account(self) -> str:
        """Its own ServiceAccount, in `accounts_namespace`."""
        return parse_member_name(self.member).account

    @property
    def accounts_namespace(self) -> str:
        """The namespace of its ServiceAccount."""
        return accounts_namespace(self.namespace)


@dataclass(frozen=True)
class JoinRecord:
    """A join under way, with the private delivery key, so that the same token works after a crash.

    `token_sha256` (hex) recognises the token, which is not stored. `refusal`: why the join ended.
    """

    nonce: str
    member: str
    token_sha256: str
    delivery_key: str = field(repr=False)
    refusal: str = ""


@dataclass(frozen=True)
class EvictionNote:
    """The membership that ended when another client deleted the Member, at `at` (epoch seconds)."""

    namespace: str
    group: str
    member: str
    at: float


@dataclass(frozen=True)
class LastAnswer:
    """The fields of the own Member that an agent shows after a restart, until the cluster answers it."""

    namespace: str
    member: str
    serving: bool
    ports: tuple[int, ...]
    cordoned: bool


def chosen_proxy(config: ClusterConfig, offered: str, environment: Mapping[str, str]) -> HttpProxy | None:
    """The HTTP proxy to the API server; `offered`: that of the join token or of the membership."""
    return choose_proxy(config.proxy, config.no_proxy, config.proxy_credentials, offered, environment)


def store_membership(state: Path, record: MembershipRecord) -> None:
    """Write membership.json. Raises HostError."""
    tree = asdict(record)
    for key in ("former", "tls_name", "proxy"):
        if not tree[key]:
            del tree[key]  # an older agent, which may run next, refuses this key
    _store(state / MEMBERSHIP, tree)


def load_membership(state: Path) -> MembershipRecord | None:
    """Read membership.json; None if this machine is not a member. Raises HostError if it is damaged."""
    tree = _load(state / MEMBERSHIP)
    if tree is None:
        return None
    try:
        texts = [*tree["servers"], *(tree[key] for key in ("ca", "namespace", "group", "member"))]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("servers, ca, namespace, group and member were expected as texts")
        record = MembershipRecord(**(tree | {"servers": tuple(tree["servers"])}))
        if not record.access or not record.account:
            raise ValueError("it names nobody")
    except (KeyError, TypeError, ValueError) as problem:
        raise _damaged(state / MEMBERSHIP, problem) from None
    return record


def trusted_cas(state: Path, record: MembershipRecord) -> str:
    """PEM of the CAs that sign the API server's certificate: the join token's, and those that the controller publishes.

    Also those of a join during this membership, with which the former one is left. "": the CAs of this machine.
    """
    if not record.ca:
        return ""
    texts, settings = [record.ca], load_settings(state)
    if settings is not None:
        texts.append(settings[0].server_ca)
    with contextlib.suppress(HostError):
        spare = load_membership(state / AGAIN)
        if spare is not None and set(spare.servers) & set(record.servers):
            texts.append(spare.ca)
    return "".join(dict.fromkeys(text.rstrip("\n") + "\n" for text in texts if text))


def store_join(state: Path, record: JoinRecord) -> None:
    """Write join.json. Raises HostError."""
    _store(state / JOIN, asdict(record))


def load_join(state: Path) -> JoinRecord | None:
    """Read join.json; None if no join is under way, or the file is unusable."""
    try:
        tree = _load(state / JOIN)
        return None if tree is None else JoinRecord(**tree)
    except (HostError, TypeError):
        return None


def forget_join(state: Path) -> None:
    """Remove join.json. Raises HostError."""
    remove(state / JOIN)


def store_settings(state: Path, text: str) -> None:
    """Write the settings' text unchanged. Raises HostError."""
    write_atomic(state / SETTINGS, text.encode())


def load_settings(state: Path) -> tuple[Settings, str] | None:
    """The last good settings and their digest; None if there are none."""
    try:
        text = (state / SETTINGS).read_text(encoding="utf-8")
        return parse_settings(text), digest(text)
    except (OSError, ValueError):
        return None


def store_answer(state: Path, answer: LastAnswer) -> None:
    """Write last-answer.json. Its modification time is that of the answer. Raises HostError."""
    _store(state / ANSWER, asdict(answer))


def touch_answer(state: Path, now: float) -> None:
    """Set the time of the last answer (epoch seconds). Without an answer on disk, do nothing."""
    with contextlib.suppress(OSError):  # it is for people only, and the next answer tries again
        os.utime(state / ANSWER, (now, now))


def load_answer(state: Path, record: MembershipRecord) -> tuple[LastAnswer, float] | None:
    """The last answer about this member and its time (epoch seconds); None without a usable one."""
    try:
        tree = _load(state / ANSWER)
        if tree is None:
            return None
        answer = LastAnswer(**(tree | {"ports": tuple(int(port) for port in tree["ports"])}))
        at = (state / ANSWER).stat().st_mtime
    except (HostError, OSError, KeyError, TypeError, ValueError):
        return None
    return (answer, at) if (answer.namespace, answer.member) == (record.namespace, record.member) else None


def forget_membership(state: Path) -> None:
    """Remove the settings and the last answer, then membership.json. Raises HostError."""
    remove(state / ANSWER)
    remove(state / SETTINGS)
    log_milestone(Leaving.SETTINGS)
    remove(state / MEMBERSHIP)
    log_milestone(Leaving.MEMBERSHIP)


def store_eviction(state: Path, record: MembershipRecord, now: float) -> None:
    """Write evicted.json. Raises HostError."""
    _store(state / EVICTION, asdict(EvictionNote(record.namespace, record.group, record.member, now)))


def load_eviction(state: Path) -> EvictionNote | None:
    """The last eviction; None without a usable note."""
    try:
        tree = _load(state / EVICTION)
        return None if tree is None else EvictionNote(**tree)
    except (HostError, TypeError):
        return None


def forget_eviction(state: Path) -> None:
    """Remove evicted.json. Raises HostError."""
    remove(state / EVICTION)


def adopt_join(spare: Path, state: Path) -> None:
    """Move the files of a join in `spare` to `state`, the membership last. Raises HostError."""
    names = sorted((path.name for path in spare.iterdir()), key=lambda name: name == MEMBERSHIP)
    for name in names:
        move(spare / name, state / name)
    spare.rmdir()


def _store(path: Path, tree: dict[str, Any]) -> None:
    write_atomic(path, (json.dumps(tree, indent=1) + "\n").encode())


def _load(path: Path) -> dict[str, Any] | None:
    try:
        tree = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise HostError(Fault.DISK, f"cannot read {path}: {problem.strerror}", "make it readable for root") from problem
    except ValueError as problem:
        raise _damaged(path, problem) from None
    if not isinstance(tree, dict):
        raise _damaged(path, "a JSON object was expected")
    return tree


def _damaged(path: Path, problem: object) -> HostError:
    text = repr(problem) if isinstance(problem, KeyError) else str(problem)
    hint = f"remove {path.parent} and join again with a new token; delete the old Member with kubectl"
    return HostError(Fault.DISK, f"{path} is damaged: {text}", hint)
