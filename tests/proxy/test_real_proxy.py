"""The real linkerd2-proxy, as far as it goes without Linkerd's controllers.

It starts with our environment, is certified by our Workload API, listens, serves new certificates, ends after SIGTERM.

EXCLAVE_LINKERD2_PROXY names the binary; no package registry has one, so without it these tests are skipped.
"""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from support.agent_program import Agent

from .lab import UID, Lab, open_lab

REFRESHES = 'control_identity_cert_refreshes_total{result="ok"}'
NAMED = os.environ.get("EXCLAVE_LINKERD2_PROXY", "")

pytestmark = [
    pytest.mark.skipif(not NAMED, reason="needs the real linkerd2-proxy: EXCLAVE_LINKERD2_PROXY=/path/to/the/binary"),
]


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Lab, Agent]]:
    """The real proxy under an agent, where its user can run it."""
    async with open_lab() as lab:
        binary = Path(shutil.copy(NAMED, lab.scratch / "linkerd2-proxy"))
        binary.chmod(0o755)
        async with lab.agent(binary) as agent:
            yield lab, agent


def output(lab: Lab) -> str:
    return (lab.runtime / "proxy-a.log").read_text()


async def metric(lab: Lab, name: str) -> float:
    fetch = (
        "import urllib.request as r\nprint(r.urlopen('http://169.254.77.1:4191/metrics', timeout=5).read().decode())"
    )
    text = (await lab.machine.must("python3", "-I", "-c", fetch)).decode()
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


async def test_it_is_certified_and_listens_on_the_ports_of_the_rules() -> None:
    async with running() as (lab, agent):
        report = await agent.until_ready()
        assert report["version"]
        assert await lab.get("/ready") == 200
        listening = (await lab.machine.must("ss", "-Hltn")).decode()
        assert {line.split()[3] for line in listening.splitlines()} == {
            "169.254.77.1:4140",
            "169.254.77.1:4143",
            "169.254.77.1:4191",
        }
        assert (await lab.status(report["instances"]["a"]["pid"]))["Uid"].split() == [str(UID)] * 4


async def test_it_logs_no_warning_about_its_environment() -> None:
    async with running() as (lab, agent):
        await agent.until_ready()
        complaints = [line for line in output(lab).splitlines() if " WARN " in line or "ERROR" in line]
        # There is no Linkerd and no name server here: only that may be logged.
        assert [line for line in complaints if "resolv" not in line.lower() and "dns" not in line.lower()] == []


async def test_it_serves_every_new_certificate_without_a_restart() -> None:
    async with running() as (lab, agent):
        await agent.until_ready()
        before = await metric(lab, REFRESHES)
        for _ in range(3):
            await agent.send("rotate")
            await agent.until(lambda report: all(view["certified"] for view in report["instances"].values()))
        assert await metric(lab, REFRESHES) - before == 3
        assert agent.reports[-1]["starts"] == 1


async def test_the_next_agent_adopts_it_and_renews_its_certificates() -> None:
    async with open_lab() as lab:
        binary = Path(shutil.copy(NAMED, lab.scratch / "linkerd2-proxy"))
        binary.chmod(0o755)
        async with lab.agent(binary) as agent:
            pid = (await agent.until_ready())["instances"]["a"]["pid"]
            await agent.kill()
        assert await lab.get("/ready") == 200
        async with lab.agent(binary) as agent:
            report = await agent.until_ready(adopted=True)
            assert (report["instances"]["a"]["pid"], report["starts"], report["outdated"]) == (pid, 0, [])
            await agent.send("rotate")
            await agent.until(lambda report: report["instances"]["a"]["certified"])


async def test_it_ends_after_sigterm() -> None:
    async with running() as (lab, agent):
        pid = (await agent.until_ready())["instances"]["a"]["pid"]
        await agent.end("leave")
        assert not await lab.runs(pid)
        assert list(lab.runtime.iterdir()) == []
