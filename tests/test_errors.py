"""Failures are named by who must act."""

import pytest

from exclave.errors import ApiRefusal, ClusterError, ConfigError, ExclaveError, Fault, HostError, TokenError


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
        (40, "config-invalid"),
    ],
)
def test_a_word_keeps_its_code(code: int, word: str) -> None:
    assert {fault.word: fault.code for fault in Fault}[word] == code


@pytest.mark.parametrize(
    ("kind", "tens"), [(TokenError, 1), (ClusterError, 2), (HostError, 3)], ids=["token", "cluster", "host"]
)
def test_a_class_carries_the_faults_of_its_tens_only(kind: type[ExclaveError], tens: int) -> None:
    for fault in Fault:
        if fault.code // 10 == tens and fault.code >= 10:
            assert kind(fault, "message", "hint").fault is fault
        else:
            with pytest.raises(ValueError) as caught:
                kind(fault, "message", "hint")
            assert str(caught.value) == f"{kind.__name__} cannot carry {fault.word}"


def test_an_error_says_what_was_met_and_what_to_do() -> None:
    problem = HostError(Fault.DISK, "the disk is full", "free some space")
    assert (str(problem), problem.message, problem.hint) == ("the disk is full", "the disk is full", "free some space")


def test_a_wrong_configuration_has_one_code() -> None:
    assert ConfigError("wrong", "mend").fault is Fault.CONFIG_INVALID


def test_a_refusal_carries_what_the_server_said() -> None:
    problem = ApiRefusal(429, "TooManyRequests", "busy", "wait", fault=Fault.UNREACHABLE, retry_after=3.0)
    assert (problem.status, problem.reason, problem.retry_after) == (429, "TooManyRequests", 3.0)
    assert problem.fault is Fault.UNREACHABLE
    assert ApiRefusal(403, "Forbidden", "no", "ask").fault is Fault.NOT_PERMITTED


def test_what_kept_us_from_a_server_is_unknown_unless_said() -> None:
    assert ClusterError(Fault.UNREACHABLE, "", "").cause_kind == ""
