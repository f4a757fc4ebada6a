"""What a machine remembers of its membership, in files of the state folder.

Blocking: small files, written whole. Rules: `membership.json` is the one file that says "I am a member"; it is written
last when joining and removed last when leaving. `join.json` is a join under way, with the delivery key's private half,
so that the same token can be used again after a crash at any point; it never holds the token. A file that cannot be
read is a HostError that says which and what to do.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from exclave.api.names import accounts_namespace, parse_member_name
from exclave.api.settings import Settings, digest, parse_settings
from exclave.cluster.endpoint import Access
from exclave.errors import Fault, HostError
from exclave.kit.formats.json_text import parse_json
from exclave.kit.host.files import move, remove, write_atomic
from exclave.milestones import Leaving, log_milestone

AGAIN = "again"
"""Folder in the state folder, of a machine that joins anew while it is a member."""

MEMBERSHIP, JOIN, SETTINGS, EVICTION = "membership.json", "join.json", "settings.json", "evicted.json"


@dataclass(frozen=True)
class MembershipRecord:
    """Which member of which group in which cluster this machine is.

    `address` is the one that its Member says, or is about to; `former` the one before, while pods may still be told of
    it; `leaving` that it was told to leave.
    """

    servers: tuple[str, ...]
    ca: str
    namespace: str
    group: str
    member: str
    address: str = ""
    leaving: bool = False
    former: str = ""

    @property
    def access(self) -> Access:
        """How to reach its cluster."""
        return Access(self.servers, self.ca)

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
    """A join under way: `token_sha256` (hex) tells whether the same token is used again; `refusal` why it ended."""

    nonce: str
    member: str
    token_sha256: str
    delivery_key: str = field(repr=False)
    refusal: str = ""


@dataclass(frozen=True)
class EvictionNote:
    """What this machine was before its Member was deleted by somebody else, at `at` (epoch seconds)."""

    namespace: str
    group: str
    member: str
    at: float


def make_folder(path: Path, mode: int) -> None:
    """Make a folder that may exist, with exactly this mode. Raises HostError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
    except OSError as problem:
        raise HostError(
            Fault.DISK, f"cannot make folder {path}: {problem.strerror}", "make its parent writable for root"
        ) from problem


def store_membership(state: Path, record: MembershipRecord) -> None:
    """Write membership.json. Raises HostError."""
    tree = asdict(record)
    if not record.former:
        del tree["former"]  # an older agent does not know it, and may follow this one
    _store(state / MEMBERSHIP, tree)


def load_membership(state: Path) -> MembershipRecord | None:
    """Read membership.json; None if this machine is no member. Raises HostError if it is damaged."""
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


def store_join(state: Path, record: JoinRecord) -> None:
    """Write join.json. Raises HostError."""
    _store(state / JOIN, asdict(record))


def load_join(state: Path) -> JoinRecord | None:
    """Read join.json; None if no join is under way, or if what is there cannot be used: a new one then starts."""
    try:
        tree = _load(state / JOIN)
        return None if tree is None else JoinRecord(**tree)
    except (HostError, TypeError):
        return None


def forget_join(state: Path) -> None:
    """Remove join.json. Raises HostError."""
    remove(state / JOIN)


def store_settings(state: Path, text: str) -> None:
    """Write the settings' text as it came. Raises HostError."""
    write_atomic(state / SETTINGS, text.encode())


def load_settings(state: Path) -> tuple[Settings, str] | None:
    """The last good settings and their digest; None if there are none that can be used."""
    try:
        text = (state / SETTINGS).read_text(encoding="utf-8")
        return parse_settings(text), digest(text)
    except (OSError, ValueError):
        return None


def forget_membership(state: Path) -> None:
    """Remove the settings, then membership.json. Raises HostError."""
    remove(state / SETTINGS)
    log_milestone(Leaving.SETTINGS)
    remove(state / MEMBERSHIP)
    log_milestone(Leaving.MEMBERSHIP)


def store_eviction(state: Path, record: MembershipRecord, now: float) -> None:
    """Remember that this machine was evicted. Raises HostError."""
    _store(state / EVICTION, asdict(EvictionNote(record.namespace, record.group, record.member, now)))


def load_eviction(state: Path) -> EvictionNote | None:
    """What was noted, if anything was and it can be read."""
    try:
        tree = _load(state / EVICTION)
        return None if tree is None else EvictionNote(**tree)
    except (HostError, TypeError):
        return None


def forget_eviction(state: Path) -> None:
    """Remove the note: this machine joins again. Raises HostError."""
    remove(state / EVICTION)


def adopt_join(spare: Path, state: Path) -> None:
    """Move what a join has written beside into its place, the membership last of all. Raises HostError."""
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
    return HostError(
        Fault.DISK,
        f"{path} is damaged: {text}",
        f"remove {path.parent} and join again with a new token; delete the old Member with kubectl",
    )
