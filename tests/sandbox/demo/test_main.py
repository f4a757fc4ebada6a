"""The demo as its user starts it: to its end, interrupted, and without root."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from exclave_sandbox.expect import FILES, SUBJECTS, differences
from support.needs import need

DEMO = [sys.executable, "-m", "exclave", "demo"]
NEARLY_FOREVER = 360


@pytest.fixture
def host() -> dict[str, str]:
    need(os.geteuid() == 0, "making network namespaces needs root")
    return snapshot()


def snapshot() -> dict[str, str]:
    commands = {**SUBJECTS, "files": FILES}
    return {name: subprocess.run(command, capture_output=True, text=True).stdout for name, command in commands.items()}


@pytest.fixture
def scratch() -> Iterator[Path]:
    """The demo's folder for temporary files, which identifies it among the demos on this host."""
    with tempfile.TemporaryDirectory(prefix="d-") as name:  # short: a socket's path has 107 characters
        folder = Path(name)
        folder.chmod(0o755)  # the proxy is another user, and its program is in there
        yield folder


def of_demo(scratch: Path) -> set[int]:
    """Processes of this demo, by its folder in their arguments or their environment."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(scratch) in text for text in (*process.cmdline(), process.environ().get("TMPDIR", ""))):
                found.add(process.pid)
    return found


def test_every_step_passes_and_the_host_is_as_before(host: dict[str, str], scratch: Path) -> None:
    apart = {**os.environ, "TMPDIR": str(scratch)}
    done = subprocess.run([*DEMO, "--json"], capture_output=True, text=True, timeout=NEARLY_FOREVER, env=apart)
    report = json.loads(done.stdout)
    failed = {step["title"]: step["detail"] for step in report["steps"] if not step["passed"]}
    assert not failed, done.stderr
    assert (done.returncode, report["failed"]) == (0, 0)
    details = {step["title"]: step["detail"] for step in report["steps"]}
    for title in (
        "certificates of 10 s are renewed for 30 s",
        "API server and controller are down",
        "the agent is killed by SIGKILL",
    ):
        assert details[title].endswith("0 failed")
    assert details["another program flushes all rules"].endswith(" 0 reused connections broke")
    order = "Ready=False → ports withdrawn → nothing new captured → proxy ended → rules and link gone"
    assert details["left in order"] == order
    assert not differences(host, snapshot())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_an_interrupted_demo_leaves_nothing(host: dict[str, str], scratch: Path, number: signal.Signals) -> None:
    apart = {**os.environ, "TMPDIR": str(scratch)}
    demo = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=apart)
    assert demo.stdout is not None
    assert any("proxy ready" in line for line in demo.stdout)  # the machine is a member, with rules and proxy
    assert demo.pid in of_demo(scratch)
    assert list(scratch.iterdir())
    demo.send_signal(number)
    last = demo.stdout.read().splitlines()[-1]  # until everything that writes there has ended
    assert demo.wait() == (-signal.SIGKILL if number is signal.SIGKILL else 130)
    assert last.endswith(" passed, 0 failed")
    assert not of_demo(scratch)
    assert not list(scratch.iterdir())
    assert not differences(host, snapshot())


def test_without_root_it_ends_at_once_with_the_reason() -> None:
    need(os.geteuid() == 0, "becoming somebody else needs root")
    refused = subprocess.run([sys.executable, "-c", _AS_NOBODY], capture_output=True, text=True, timeout=30)
    assert refused.stderr == (
        "exclave: the demo makes network namespaces and needs root\n  to do: run it as root: sudo exclave demo\n"
    )
    assert refused.returncode == 30


_AS_NOBODY = """
import os, sys
import exclave_sandbox.demo.main
from exclave.cli.main import main
os.setresuid(65534, 65534, 65534)
sys.exit(main(["demo"]))
"""


def test_its_help_names_the_stand_ins() -> None:
    text = subprocess.run([*DEMO, "--help"], capture_output=True, text=True, timeout=30).stdout
    assert "admission policies are not enforced" in text
    assert "linkerd2-proxy's environment" in text
