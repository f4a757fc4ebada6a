"""The interface between `linkerd check` and an extension; tests/peers runs the checks on real servers."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from exclave.admin.check.verbs import _rows
from exclave.errors import ClusterError, Fault
from support.admin import Admin


def test_linkerd_check_learns_to_run_the_checks(tmp_path: Path) -> None:
    typed = Admin(tmp_path / "none", "linkerd-exclave").type("_extension-metadata")
    assert typed.code == 0
    assert json.loads(typed.out) == {"name": "linkerd-exclave", "checks": "always"}


def test_every_option_of_linkerd_check_is_accepted(admin: Admin) -> None:
    handed_on = ["--as=x", "--as-group=[]", "--api-addr=a:1", "--wait=5m", "--proxy=false", "--verbose=false"]
    typed = admin.type("check", *handed_on, "--linkerd-namespace=linkerd", "--output=json")
    assert "unrecognized" not in typed.err
    assert typed.code != 2


class AwayKubectl:
    """A kubectl whose API server does not answer."""

    def __getattr__(self, name: str) -> Any:
        raise ClusterError(Fault.UNREACHABLE, "no API server answered", "wait")


def test_an_error_of_all_checks_is_printed_once() -> None:
    options = SimpleNamespace(controller_namespace="exclave", linkerd_namespace=None, pre=False, proxy="false")
    session = SimpleNamespace(kubectl=AwayKubectl(), now=time.time)
    first, *rest = _rows(session, options)  # type: ignore[arg-type]
    assert (first.problem, first.hint) == ("no API server answered", "wait")
    assert len(rest) == 16
    assert {(one.result, one.problem, one.hint) for one in rest} == {("error", "the same as above", "")}
