"""All failures that a person can meet, grouped by the person who must act. Library errors are translated at the call.

Each has an exit code and a fixed word (`Fault`). The code's tens are 1 for the admin who made the token, 2 for the
cluster, 3 for this machine, 4 for the configuration; code 1 is a bug. A message states the expected, the found and the
place, a hint the remedy; neither contains a secret.
"""

import traceback
from collections.abc import Iterator
from enum import Enum
from typing import Any

_PACKAGE = __file__.rpartition("/")[0]


class Fault(Enum):
    """Every failure with its exit code and fixed word, which `--json` prints."""

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
    PACKAGE_MISSING = (36, "package-missing")
    OTHER_MESH = (37, "other-mesh")
    TOOL_HANGS = (38, "tool-hangs")
    DOWNLOAD = (39, "download")

    CONFIG_INVALID = (40, "config-invalid")

    @property
    def code(self) -> int:
        """The exit code."""
        return self.value[0]

    @property
    def word(self) -> str:
        """The fixed word."""
        return self.value[1]


NO_RESTART = (
    Fault.USAGE,
    Fault.NO_PRIVILEGE,
    Fault.NFT_UNUSABLE,
    Fault.PACKAGE_MISSING,
    Fault.OTHER_MESH,
    Fault.CONFIG_INVALID,
)
"""Faults of `exclave run` after which exclave.service does not start the agent again.

The others can end by themselves: a name service answers (32), a disk has room (33), a program frees its ports (34),
another agent ends (35).
"""

MAY_HEAL = (Fault.NFT_UNUSABLE, Fault.OCCUPIED, Fault.PACKAGE_MISSING, Fault.OTHER_MESH)
"""Faults that may last for seconds only, as during the upgrade of a package. A member's agent, run by systemd, does not
end by them: it tries again. On a machine that is no member nothing is lost, and `exclave join` starts the agent.
"""


class ExclaveError(Exception):
    """A failure with its `fault`, a `message` for a person and a `hint` at the remedy."""

    tens: int | None = None

    def __init__(self, fault: Fault, message: str, hint: str) -> None:
        if self.tens is not None and fault.code // 10 != self.tens:
            raise ValueError(f"{type(self).__name__} cannot have fault {fault.word}")
        super().__init__(message)
        self.fault = fault
        self.message = message
        self.hint = hint


class UsageError(ExclaveError):
    """The command line must be corrected, or an object that it names."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(Fault.USAGE, message, hint)


class TokenError(ExclaveError):
    """The admin who made the join token must act."""

    tens = 1


class ClusterError(ExclaveError):
    """An admin of the cluster must act, or the cluster must become reachable."""

    tens = 2
    cause_kind = ""  # why it was not reached: refused, timeout, name, tls-ca, tls-other or other


class ApiRefusal(ClusterError):
    """The API server refused a request."""

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
        self.status = status  # HTTP status
        self.reason = reason  # of the Status object, "" if the body had none
        self.retry_after = retry_after  # seconds, if the server sent a Retry-After


class HostError(ExclaveError):
    """An admin of this machine must act."""

    tens = 3


class ConfigError(ExclaveError):
    """config.toml must be corrected; the message lists every mistake."""

    tens = 4

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(Fault.CONFIG_INVALID, message, hint)


def error_object(code: int, word: str, message: str, hint: str) -> dict[str, Any]:
    """A failure as `--json` prints it."""
    return {"error": {"code": code, "word": word, "message": message, "hint": hint}}


BUG = "an unexpected error: this is a bug in exclave"
BUG_HINT = "report it with the lines above; they contain no secret"


def bug_lines(problem: BaseException) -> list[str]:
    """An unexpected exception for a terminal: its types and places, never its text, which may contain a secret."""
    return [*_places(problem), f"exclave: {BUG}", f"  to do: {BUG_HINT}"]


def bug_object() -> dict[str, Any]:
    """An unexpected exception as `--json` prints it."""
    return error_object(Fault.BUG.code, Fault.BUG.word, BUG, BUG_HINT)


def describe(problem: BaseException) -> str:
    """One line for a log: our own error by its text, any other by its type and its place in our code."""
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
    # A library may quote a secret, as h11 quotes a refused header: only our code's and the system's texts are shown.
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
    """The ExclaveError in an exception or in a group of exceptions; None if there is none."""
    if isinstance(problem, ExclaveError):
        return problem
    found = (find_error(inner) for inner in getattr(problem, "exceptions", ()))
    return next((error for error in found if error is not None), None)
