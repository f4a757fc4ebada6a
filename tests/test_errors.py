"""Failures are named by who must act."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h11
import pytest
import trio

import exclave
from exclave.errors import (
    NO_RESTART,
    ApiRefusal,
    ClusterError,
    ConfigError,
    ExclaveError,
    Fault,
    HostError,
    TokenError,
    UsageError,
    bug_lines,
    bug_object,
    describe,
    error_object,
    find_error,
)
from exclave.kit.formats.times import parse_duration


def test_codes_and_words_are_unique() -> None:
    assert len({fault.code for fault in Fault}) == len(list(Fault)) == len({fault.word for fault in Fault})


# The numbers and words are a contract with scripts: they may grow, never change.
@pytest.mark.parametrize(
    ("code", "word"),
    [
        (1, "bug"),
        (2, "usage"),
        (10, "token-malformed"),
        (11, "token-version"),
        (12, "token-expired"),
        (13, "token-revoked"),
        (14, "token-used-up"),
        (15, "group-gone"),
        (16, "ca-mismatch"),
        (20, "already-member"),
        (21, "machine-known"),
        (22, "address-refused"),
        (23, "unreachable"),
        (24, "not-permitted"),
        (25, "clock-skew"),
        (26, "not-admitted"),
        (30, "no-privilege"),
        (31, "nft-unusable"),
        (32, "proxy-unusable"),
        (33, "disk"),
        (34, "taken"),
        (35, "another-agent"),
        (36, "package-missing"),
        (37, "other-mesh"),
        (38, "tool-hangs"),
        (39, "download"),
        (40, "config-invalid"),
    ],
)
def test_a_word_never_changes_its_code(code: int, word: str) -> None:
    assert {fault.word: fault.code for fault in Fault}[word] == code


UNIT = Path(__file__).resolve().parents[1] / "systemd" / "exclave.service"


def test_systemd_does_not_restart_the_agent_after_what_only_a_person_can_fix() -> None:
    codes = {fault.code for fault in NO_RESTART}
    assert codes == {2, 30, 31, 36, 37, 40}
    if UNIT.exists():
        (listed,) = re.findall(r"^RestartPreventExitStatus=(.*)$", UNIT.read_text(), re.MULTILINE)
        assert set(map(int, listed.split())) == codes


@pytest.mark.parametrize(
    ("kind", "tens"), [(TokenError, 1), (ClusterError, 2), (HostError, 3)], ids=["token", "cluster", "host"]
)
def test_a_class_accepts_only_the_faults_of_its_tens(kind: type[ExclaveError], tens: int) -> None:
    for fault in Fault:
        if fault.code // 10 == tens and fault.code >= 10:
            assert kind(fault, "message", "hint").fault is fault
        else:
            with pytest.raises(ValueError) as caught:
                kind(fault, "message", "hint")
            assert str(caught.value) == f"{kind.__name__} cannot have fault {fault.word}"


def test_an_error_has_a_message_and_a_hint() -> None:
    problem = HostError(Fault.DISK, "the disk is full", "free some space")
    assert (str(problem), problem.message, problem.hint) == ("the disk is full", "the disk is full", "free some space")


def test_a_wrong_configuration_or_command_line_has_one_code() -> None:
    assert ConfigError("wrong", "mend").fault is Fault.CONFIG_INVALID
    assert UsageError("wrong", "mend").fault is Fault.USAGE


def test_a_refusal_has_the_servers_status_and_reason() -> None:
    problem = ApiRefusal(429, "TooManyRequests", "busy", "wait", fault=Fault.UNREACHABLE, retry_after=3.0)
    assert (problem.status, problem.reason, problem.retry_after) == (429, "TooManyRequests", 3.0)
    assert problem.fault is Fault.UNREACHABLE
    assert ApiRefusal(403, "Forbidden", "no", "ask").fault is Fault.NOT_PERMITTED


def test_the_cause_of_an_unreachable_server_is_empty_by_default() -> None:
    assert ClusterError(Fault.UNREACHABLE, "", "").cause_kind == ""


def in_our_code(line: str) -> Callable[[], object]:
    """Runs a line as if it were in exclave/sample.py."""
    return partial(exec, compile(line, str(Path(exclave.__file__).with_name("sample.py")), "exec"), {"h11": h11})


def fail(problem: BaseException) -> None:
    raise problem


DESCRIBED: dict[str, tuple[Callable[[], object], str]] = {
    "our own error, by its text": (partial(fail, HostError(Fault.DISK, "the disk is full", "")), "the disk is full"),
    "our own error without a text, by its type": (partial(fail, HostError(Fault.DISK, "", "")), "HostError"),
    "a mistake in our code": (in_our_code("{}['uid']"), "KeyError: 'uid' (exclave/sample.py:1)"),
    "a mistake without a text": (in_our_code("assert False"), "AssertionError (exclave/sample.py:1)"),
    "a value that our code refuses": (
        partial(parse_duration, "soon"),
        "ValueError: 'soon' is not a duration such as 10s, 5m or 24h (exclave/kit/formats/times.py:LINE)",
    ),
    "a foreign error, without its text, which may quote a secret": (
        in_our_code("h11.Request(method='GET', target='/', headers=[('Authorization', 'Bearer s3cret\\n')])"),
        "LocalProtocolError (exclave/sample.py:1)",
    ),
    "an error of the operating system, with its text": (
        partial(fail, FileNotFoundError(2, "No such file or directory", "/a")),
        "FileNotFoundError: [Errno 2] No such file or directory: '/a' (tests/test_errors.py:LINE)",
    ),
    "one that was raised outside of our code": (
        partial(fail, ValueError("x")), "ValueError (tests/test_errors.py:LINE)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "line"), DESCRIBED.values(), ids=DESCRIBED)
def test_a_failure_is_described_in_one_line_for_a_log(call: Callable[[], object], line: str) -> None:
    try:
        call()
    except Exception as problem:
        assert re.sub(r"(times|test_errors)\.py:[0-9]+", r"\1.py:LINE", describe(problem)) == line
    else:
        raise AssertionError("it did not fail")


def test_a_failure_that_was_never_raised_has_no_place() -> None:
    assert describe(TypeError("x")) == "TypeError"


async def test_of_a_group_of_failures_each_is_described() -> None:
    with pytest.raises(BaseException) as caught:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, in_our_code("[][0]"))
            nursery.start_soon(trio.to_thread.run_sync, in_our_code("{}['uid']"))
    assert sorted(describe(caught.value).split("; ")) == [
        "IndexError: list index out of range (exclave/sample.py:1)",
        "KeyError: 'uid' (exclave/sample.py:1)",
    ]


def test_a_failure_is_one_object() -> None:
    error = HostError(Fault.DISK, "the disk is full", "free some space")
    assert error_object(33, "disk", error.message, error.hint) == {
        "error": {"code": 33, "word": "disk", "message": "the disk is full", "hint": "free some space"}
    }


class Group(Exception):
    """An exception group, as far as its shape goes, on every Python."""

    def __init__(self, *inner: BaseException) -> None:
        super().__init__("secret of the group")
        self.exceptions = inner


def test_a_bug_is_printed_with_types_and_places_without_texts() -> None:
    try:
        try:
            raise KeyError("secret of the cause")
        except KeyError as cause:
            raise ValueError("secret of the problem") from cause
    except ValueError as problem:
        lines = bug_lines(Group(problem))
    assert "secret of" not in "\n".join(lines)
    assert [line for line in lines if not line.startswith(" ")] == [
        f"{__name__}.Group",
        "builtins.ValueError",
        "builtins.KeyError",
        "exclave: an unexpected error: this is a bug in exclave",
    ]
    assert lines[-1] == "  to do: report it with the lines above; they contain no secret"
    assert sum(line.startswith(f"  {__file__}:") and " in test_a_bug" in line for line in lines) == 2
    assert bug_object()["error"]["code"] == 1
    assert bug_object()["error"]["word"] == "bug"


def test_a_failure_is_found_anywhere_in_a_group() -> None:
    error = TokenError(Fault.TOKEN_EXPIRED, "", "")
    assert find_error(error) is error
    assert find_error(Group(ValueError(), Group(error))) is error
    assert find_error(Group(ValueError(), Group())) is None
