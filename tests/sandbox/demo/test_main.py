"""The demo as a whole, and its report."""

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
import trio

from exclave_sandbox.demo.main import (
    Reporter,
    StepResult,
    as_json,
    exit_status,
    render_running,
    render_step,
    render_total,
)
from exclave_sandbox.expect import FILES, SUBJECTS, UnexpectedError, differences
from support.needs import need

JOINED = StepResult("joined", True, 3.24, 1.1, "web-k7q2x-1")
LOST = StepResult("pod reaches the VM", False, 4.0, 0.2, "expected status 200\nfound 502")


def test_a_step_is_printed_with_its_time_outcome_and_detail() -> None:
    assert render_step(JOINED) == "     3.2 s  ok    joined\n                  web-k7q2x-1"


def test_a_failed_step_has_all_lines_of_its_detail() -> None:
    first, *detail = render_step(LOST).splitlines()
    assert first == "     4.0 s  FAIL  pod reaches the VM"
    assert [line.strip() for line in detail] == ["expected status 200", "found 502"]


def test_the_result_of_a_step_overwrites_the_line_of_the_running_step() -> None:
    running, result = render_running("joined"), render_step(JOINED).splitlines()[0]
    assert running.index("joined") == result.index("joined")
    assert len(running) == len(result)


def test_the_last_line_counts_and_the_exit_status_agrees() -> None:
    assert render_total([JOINED, LOST]) == "1 passed, 1 failed"
    assert exit_status([JOINED, LOST]) == 1
    assert exit_status([JOINED]) == 0


def test_a_demo_without_steps_has_not_passed() -> None:
    assert exit_status([]) == 1


def test_json_holds_every_step_and_the_counts() -> None:
    tree = as_json([JOINED, LOST])
    assert tree["passed"] == tree["failed"] == 1
    assert tree["steps"][0] == {"title": "joined", "passed": True, "at": 3.24, "took": 1.1, "detail": "web-k7q2x-1"}


def test_a_chapter_is_set_apart(capsys: pytest.CaptureFixture[str]) -> None:
    async def begin() -> None:
        Reporter(quiet=False).chapter("Leaving")

    trio.run(begin)
    assert capsys.readouterr().out == "\nLeaving\n"


async def passes() -> str:
    await trio.sleep(2)
    return "it is there"


async def fails() -> str:
    raise UnexpectedError("one was expected, found two")


async def breaks() -> str:
    raise KeyError("status")


async def breaks_below() -> str:
    async with trio.open_nursery():
        raise UnexpectedError("below")


async def hangs() -> str:
    await trio.sleep_forever()
    raise AssertionError


async def test_a_step_that_passes_has_its_times_and_its_detail(autojump_clock: object) -> None:
    reporter = Reporter(quiet=True)
    assert await reporter.step("first", passes)
    assert await reporter.step("second", passes)
    first, second = reporter.steps
    assert (second.title, second.passed, second.detail) == ("second", True, "it is there")
    assert (first.at, first.took) == (2.0, 2.0)
    assert (second.at, second.took) == (4.0, 2.0)


@pytest.mark.parametrize(
    ("work", "words"),
    [(fails, "one was expected, found two"), (breaks, "KeyError: 'status'\n(breaks, line "), (breaks_below, "below")],
)
async def test_a_step_that_raises_has_failed_with_the_text_of_the_problem(work: object, words: str) -> None:
    reporter = Reporter(quiet=True)
    assert not await reporter.step("it", work)  # type: ignore[arg-type]
    assert reporter.steps[0].detail.startswith(words)
    assert await reporter.step("the next step is tried", fails) is False


async def test_a_step_over_its_limit_has_failed(autojump_clock: object) -> None:
    reporter = Reporter(quiet=True)
    assert not await reporter.step("it", hangs, limit=5)
    assert (reporter.steps[0].detail, reporter.steps[0].took) == ("not done within 5 s", 5.0)


async def test_a_result_is_printed_at_once_unless_the_reporter_is_quiet(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reporter = Reporter(quiet=False)
    reporter.chapter("Joining")
    await reporter.step("it fails", fails)
    printed = capsys.readouterr().out
    assert "Joining" in printed
    assert "it fails" in printed and "one was expected, found two" in printed
    assert "\r" not in printed  # no terminal
    await Reporter(quiet=True).step("it fails", fails)
    assert capsys.readouterr().out == ""


async def test_a_stage_that_cannot_be_built_is_a_failed_step_with_the_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reporter = Reporter(quiet=False)
    with trio.fail_after(30):
        try:
            await breaks_below()
        except Exception as problem:
            reporter.report_broken_stage(problem)
    assert [(step.title, step.passed, step.detail) for step in reporter.steps] == [
        ("the demo's machines are set up", False, "below")
    ]
    assert "FAIL  the demo's machines are set up" in capsys.readouterr().out
    assert exit_status(reporter.steps) == 1


def test_a_bug_while_the_stage_is_built_stays_a_bug() -> None:
    async def report() -> None:
        reporter = Reporter(quiet=True)
        with pytest.raises(KeyError):
            reporter.report_broken_stage(KeyError("status"))
        assert reporter.steps == []

    trio.run(report)


def test_a_demo_whose_linkerd_cannot_be_installed_prints_why_and_removes_everything(host: dict[str, str]) -> None:
    done = subprocess.run(
        ["unshare", "--net", "--mount", sys.executable, "-c", _BROKEN_STAGE], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (1, "")
    first, reason, remedy, *_, total = done.stdout.splitlines()
    assert "FAIL  the demo's machines are set up" in first
    assert (reason.strip(), remedy.strip()) == ("linkerd install: exit status 1", "to do: name another")
    assert total == "1 passed, 1 failed"
    assert not differences(host, snapshot())


_BROKEN_STAGE = """
import os, sys, trio
from contextlib import asynccontextmanager
from exclave_sandbox.demo import main
from exclave_sandbox.expect import UnexpectedError

@asynccontextmanager
async def open_stage(*_):
    async with trio.open_nursery():
        raise UnexpectedError("linkerd install: exit status 1\\nto do: name another")
    yield

main.open_stage = open_stage
sys.exit(main.main([f"--host={os.getpid()}"]))
"""

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
