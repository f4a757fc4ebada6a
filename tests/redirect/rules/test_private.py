"""The private link's own rules, as a golden file, and what nft does with them."""

import subprocess
import tempfile
from pathlib import Path

from exclave.redirect.rules.private import render_private, render_private_removal

GOLDEN = Path(__file__).with_name("private.nft")


def test_it_renders_the_reviewed_rules() -> None:
    assert GOLDEN.read_text() == render_private((65534, 0))


def test_a_proxy_of_root_is_named_once() -> None:
    assert "meta skuid { 0 } accept" in render_private((0, 0))


def test_nft_loads_them_repeatedly_and_removes_them_repeatedly() -> None:
    with tempfile.NamedTemporaryFile("w") as removal:
        removal.write(render_private_removal())
        removal.flush()
        script = 'nft -f "$0" && nft -f "$0" && nft list tables && nft -f "$1" && nft -f "$1" && nft list tables'
        command = ["unshare", "--net", "sh", "-c", script, GOLDEN, removal.name]
        done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "table inet exclave-private\n", "")
