"""Async tests run under trio; a test that takes `autojump_clock` runs in virtual time."""

import inspect
import os
import signal
import subprocess
from functools import partial
from typing import Any

import pytest
import trio.testing
from hypothesis import HealthCheck, settings

from plugin.markers import markers_of
from plugin.trio_timeout import Run, cancelled_at_timeout
from plugin.xdist_scheduler import ShareScheduler, longest_first
from support.figures import FIGURES, add_figure
from support.needs import need

# A machine that does much else is slow: no property test fails by the clock.
settings.register_profile("exclave", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("exclave")

# In the background of a shell SIGINT is ignored, and would be in every program that a test starts, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """A clock that jumps to the next deadline whenever all tasks wait."""
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.fixture(autouse=True)
def _usual_umask() -> None:
    """A command that an earlier test ran in this process may have changed it, as the agent does."""
    os.umask(0o022)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests."""
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    taken = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    run = Run()
    with cancelled_at_timeout(run):
        run.run(partial(test, **taken), pyfuncitem.funcargs.get("autojump_clock"))
    return True


def _can_make_namespaces() -> bool:
    if os.geteuid() != 0:
        return False
    return subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode == 0


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot run here, or fail in CI."""
    if item.get_closest_marker("root"):
        need(_can_make_namespaces(), "needs root and network namespaces")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs root or real servers; in one of several processes, order the tests by their shares."""
    for item in items:
        assert isinstance(item, pytest.Function)
        for marker in markers_of(item):
            item.add_marker(marker)
    if hasattr(config, "workerinput"):
        items[:] = longest_first((item.nodeid, item) for item in items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ShareScheduler:
    """Distribute the tests in shares."""
    return ShareScheduler(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the figures of one of several processes."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["figures"] = FIGURES


def pytest_testnodedown(node: Any, error: object) -> None:
    """Receive the figures of one of several processes."""
    for figure in getattr(node, "workeroutput", {}).get("figures", []):
        add_figure(figure)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the figures that tests measured."""
    if FIGURES:
        beside = " beside other tests" if config.getoption("numprocesses") else ""
        terminalreporter.section(f"measured{beside}, and not judged")
        for figure in FIGURES:
            terminalreporter.line(figure)
