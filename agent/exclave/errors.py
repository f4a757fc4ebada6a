"""What can go wrong, named by who must act.

Rules: every failure a person meets has a number and a fixed word (`Fault`); the number's tens say who must act:
1x the admin who made the token, 2x the cluster, 3x the host, 4x the configuration, 1 a bug of ours.
A message says what was expected, what was met and where; a hint says what to do. Neither holds a secret.
Foreign errors are translated once, where the foreign library is called. Only `cli` turns these into exit codes.
"""

import traceback
from collections.abc import Iterator
from enum import Enum
from typing import Any

_PACKAGE = __file__.rpartition("/")[0]


class Fault(Enum):
    """Every failure with its exit code and fixed word; `word` is what `--json` shows."""

    BUG = (1, "bug")
    USAGE = (2, "usage")

    TOKEN_MALFORMED = (10, "token-malformed")
    TOKEN_VERSION = (11, "token-version")
    TOKEN_EXPIRED = (12, "token-expired")
    TOKEN_REVOKED = (13, "token-revoked")
    TOKEN_USED_UP = (14, "token-used-up")
    GROUP_GONE = (15, "group-gone")
    CA_MISMATCH = (16, "ca-mismatch")

    ALREADY_MEMBER = (20, "already-member")
    DUPLICATE_MACHINE = (21, "machine-known")
    ADDRESS_REFUSED = (22, "address-refused")
    UNREACHABLE = (23, "unreachable")
    NOT_PERMITTED = (24, "not-permitted")
    CLOCK_SKEW = (25, "clock-skew")
    NOT_ADMITTED = (26, "not-admitted")

    NO_PRIVILEGE = (30, "no-privilege")
    NFT_UNUSABLE = (31, "nft-unusable")
    PROXY_UNUSABLE = (32, "proxy-unusable")
    DISK = (33, "disk")
    OCCUPIED = (34, "taken")
    ANOTHER_AGENT = (35, "another-agent")

    CONFIG_INVALID = (40, "config-invalid")

    @property
    def code(self) -> int:
        """The exit code."""
        return self.value[0]

    @property
    def word(self) -> str:
        """The fixed word."""
        return self.value[1]


class ExclaveError(Exception):
    """A failure with its `fault`, a `message` for a person and a `hint` that says what to do."""

    tens: int | None = None

    def __init__(self, fault: Fault, message: str, hint: str) -> None:
        if self.tens is not None and fault.code // 10 != self.tens:
            raise ValueError(f"{type(self).__name__} cannot carry {fault.word}")
        super().__init__(message)
        self.fault = fault
        self.message = message
        self.hint = hint


class TokenError(ExclaveError):
    """The admin who made the join token must act."""

    tens = 1


class ClusterError(ExclaveError):
    """Somebody must act in the cluster, or the cluster must come back.

    If nobody was reached, `cause_kind` says what kept us: refused, timeout, name, tls-ca, tls-other or other.
    """

    tens = 2
    cause_kind = ""


class ApiRefusal(ClusterError):
    """The API server answered, and the answer was no.

    `status` is the HTTP status, `reason` the Status object's reason ("" if the body had none),
    `retry_after` the server's Retry-After in seconds, if it sent one.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        hint: str,
        *,
        fault: Fault = Fault.NOT_PERMITTED,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(fault, message, hint)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class HostError(ExclaveError):
    """Somebody must act on this machine."""

    tens = 3


class ConfigError(ExclaveError):
    """config.toml must be mended; the message lists every mistake."""

    tens = 4

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(Fault.CONFIG_INVALID, message, hint)


def error_object(code: int, word: str, message: str, hint: str) -> dict[str, Any]:
    """What a command that failed prints with `--json`."""
    return {"error": {"code": code, "word": word, "message": message, "hint": hint}}


BUG = "something happened that should not; this is a bug of exclave's"


BUG_HINT = "report it, with the lines above; they hold no secret"


def error_lines(error: ExclaveError) -> str:
    """A failure for a terminal: what was met, then what to do."""
    return f"exclave: {error.message}\n  to do: {error.hint}"


def bug_lines(problem: BaseException) -> str:
    """Where something happened that should not: types and places, never an exception's own words."""
    return "\n".join([*_places(problem), f"exclave: {BUG}", f"  to do: {BUG_HINT}"])


def bug_object() -> dict[str, Any]:
    """The same for programs; the places go to the log."""
    return error_object(Fault.BUG.code, Fault.BUG.word, BUG, BUG_HINT)


def describe(problem: BaseException) -> str:
    """One line for a log: our own error by its text, any other by its type and where in our code it came from.

    The text of another error is shown if our own code or the operating system raised it: a library may quote a
    secret, as h11 quotes a header that it refuses. Of a group each member is described.
    """
    inside: tuple[BaseException, ...] = getattr(problem, "exceptions", ())
    if inside:
        return "; ".join(map(describe, inside))
    kind, text = type(problem).__name__, str(problem)
    if isinstance(problem, ExclaveError):
        return text or kind
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(problem.__traceback__)]
    if not frames:
        return kind
    ours = [(file, line) for file, line in frames if file.startswith(f"{_PACKAGE}/")]
    file, line = ours[-1] if ours else frames[-1]
    shown = f"{kind}: {text}" if text and (ours[-1:] == frames[-1:] or isinstance(problem, OSError)) else kind
    start = len(_PACKAGE) - len("exclave") if ours else file.rfind("/", 0, file.rfind("/")) + 1
    return f"{shown} ({file[start:]}:{line})"


def _places(problem: BaseException) -> Iterator[str]:
    yield f"{type(problem).__module__}.{type(problem).__qualname__}"
    for frame in traceback.extract_tb(problem.__traceback__):
        yield f"  {frame.filename}:{frame.lineno} in {frame.name}"
    for inner in getattr(problem, "exceptions", ()):
        yield from _places(inner)
    if problem.__cause__ is not None:
        yield from _places(problem.__cause__)


def find_error(problem: BaseException) -> ExclaveError | None:
    """The failure that a person can act on, in an exception or anywhere in a group of them."""
    if isinstance(problem, ExclaveError):
        return problem
    found = (find_error(inner) for inner in getattr(problem, "exceptions", ()))
    return next((error for error in found if error is not None), None)
