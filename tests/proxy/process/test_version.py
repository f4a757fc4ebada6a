"""The version in a greeting, and the two that cannot work."""

import pytest

from exclave.proxy.process.version import read_version, why_refused

SERVICE = "asks the Workload API for a service name that no server knows, and so never gets a certificate"

GREETINGS = {
    "a release": ("[     0.001s]  INFO ThreadId(01) linkerd2_proxy: release 2.331.0 (abc1234) by linkerd", "2.331.0"),
    "a tag with a v": ("INFO linkerd2_proxy: release v2.329.0 (abc1234) by linkerd on 2026-01-01", "2.329.0"),
    "a build of one's own": ("INFO linkerd2_proxy: debug 0.0.0-dev.1 (1234567) by me", "0.0.0-dev.1"),
    "lines around it": ("warning\nINFO linkerd2_proxy: release 2.331.0 (a) by b\nInvalid configuration", "2.331.0"),
    "another program": ("Usage: proxy [options]", None),
    "silence": ("", None),
}


@pytest.mark.parametrize(("greeting", "version"), GREETINGS.values(), ids=GREETINGS)
def test_a_greeting_says_the_version(greeting: str, version: str | None) -> None:
    assert read_version(greeting) == version


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("2.328.0", None),
        ("2.329.0", SERVICE),
        ("2.330.0", SERVICE),
        ("2.331.0", None),
        ("0.0.0-dev.1", None),
        (None, None),
    ],
)
def test_versions_that_cannot_work_are_refused_with_the_reason(version: str | None, reason: str | None) -> None:
    assert why_refused(version) == reason
