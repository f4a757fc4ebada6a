"""The demo as its user starts it: whole, broken off, and without the rights for it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from exclave.sandbox.compare import FILES, SUBJECTS, differences
from support.needs import need

DEMO = [sys.executable, "-m", "exclave", "demo"]
NEARLY_FOREVER = 240


@pytest.fixture
def host() -> dict[str, str]:
    need(os.geteuid() == 0, "making network namespaces needs root")
    return look()


def look() -> dict[str, str]:
    commands = {**SUBJECTS, "files": FILES}
    return {name: subprocess.run(command, capture_output=True, text=True).stdout for name, command in commands.items()}


def of_ours() -> set[int]:
    """Processes of a demo, by the scratch folder or the module in their arguments."""
    words = ("exclave.sandbox", "/tmp/exclave-", "--host=")
    return {
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(word in argument for argument in process.info["cmdline"] or () for word in words)
    }


def scratch_folders() -> set[str]:
    return {path.name for path in Path("/tmp").glob("exclave-*")}


@pytest.mark.root
def test_the_whole_story_passes_and_the_host_is_as_it_was(host: dict[str, str]) -> None:
    told = subprocess.run([*DEMO, "--json"], capture_output=True, text=True, timeout=NEARLY_FOREVER)
    story = json.loads(told.stdout)
    failed = {step["title"]: step["detail"] for step in story["steps"] if not step["passed"]}
    assert not failed, told.stderr
    assert (told.returncode, story["failed"]) == (0, 0)
    seen = {step["title"]: step["detail"] for step in story["steps"]}
    for title in (
        "certificates of 10 s are renewed for 30 s",
        "API server and controller go away",
        "the agent is killed with -9",
    ):
        assert seen[title].endswith("0 failed")
    assert seen["others flush all rules"].endswith(" 0 kept connections broke")
    order = "Ready=False → ports withdrawn → nothing new captured → proxy ended → rules and link gone"
    assert seen["left in order"] == order
    assert not differences(host, look())


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_demo_that_is_broken_off_leaves_nothing(host: dict[str, str], number: signal.Signals) -> None:
    before, folders = of_ours(), scratch_folders()
    demo = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert demo.stdout is not None
    assert any("proxy ready" in line for line in demo.stdout)  # the machine is a member, with rules and proxy
    demo.send_signal(number)
    last = demo.stdout.read().splitlines()[-1]  # until everything that writes there has ended
    assert demo.wait() == (-signal.SIGKILL if number is signal.SIGKILL else 130)
    assert last.endswith(" passed, 0 failed")
    assert of_ours() <= before
    assert scratch_folders() <= folders
    assert not differences(host, look())


@pytest.mark.root
def test_without_root_it_says_so_at_once() -> None:
    need(os.geteuid() == 0, "becoming somebody else needs root")
    refused = subprocess.run([sys.executable, "-c", _AS_NOBODY], capture_output=True, text=True, timeout=30)
    assert refused.stderr == (
        "exclave: the demo makes network namespaces and needs root\n  to do: run it as root: sudo exclave demo\n"
    )
    assert refused.returncode == 30


_AS_NOBODY = """
import os, sys
import exclave.sandbox.scenario
from exclave.cli import main
os.setresuid(65534, 65534, 65534)
sys.exit(main(["demo"]))
"""


def test_its_help_says_what_is_a_stand_in() -> None:
    told = subprocess.run([*DEMO, "--help"], capture_output=True, text=True, timeout=30).stdout
    assert "admission policies are not enforced" in told
    assert "linkerd2-proxy's environment" in told
