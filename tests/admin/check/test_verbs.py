"""The interface between `linkerd check` and an extension; tests/peers runs the checks on real servers."""

import json
from pathlib import Path

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
