"""agent/docs/linkerd.md against the code."""

import re
from pathlib import Path

from architecture.tree import SOURCE
from exclave.proxy.environment import PREFIX, proxy_environment
from exclave.proxy.process.binary import REFUSED

from .markdown import read_document
from .samples import make_settings

LINKERD = read_document("linkerd.md")


def test_every_variable_that_the_proxy_is_given_is_listed() -> None:
    environment = proxy_environment(
        make_settings(), "web-k7q2x-1", ("10.0.0.5",), "a", Path("/run/exclave/workload.sock"), "info",
        drain=30.0, families=(4, 6),
    )  # fmt: skip
    text = LINKERD.section("The proxy").text.split("These variables are set.")[1]
    assert {f"{PREFIX}{name}" for name in re.findall(r"`([A-Z0-9_]+)`", text)} - {PREFIX * 2} == set(environment)


def test_every_refused_version_is_named() -> None:
    assert {version for version in REFUSED if version not in LINKERD.text} == set()


def test_every_module_that_depends_on_a_fact_exists() -> None:
    named = {span for span in LINKERD.spans if span.endswith(".py")}
    assert len(named) > 30
    assert {name for name in named if not (SOURCE / "exclave" / name).is_file()} == set()
