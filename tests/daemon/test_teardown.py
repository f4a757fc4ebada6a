"""Leaving and cleaning up without an agent: the order, as a golden file, and what is left."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from exclave.api.join_token import encode_token
from exclave.api.requests import MEMBERS, Request, patch
from exclave.api.workload.withdrawal import is_withdrawn
from exclave.cluster.credential import Credential, render_credential
from exclave.cluster.http import Exchange
from exclave.cluster.watch import Upserted
from exclave.config import Config, ListingConfig, MemberConfig, Paths, ProxyConfig
from exclave.daemon import teardown as departure
from exclave.errors import Fault, HostError
from exclave.join.join import join
from exclave.kit.host.files import make_folder
from exclave.link.layout import INSTANCES, Instance
from exclave.member.record import (
    JoinRecord,
    MembershipRecord,
    forget_join,
    forget_membership,
    load_membership,
    store_eviction,
    store_join,
    store_membership,
)
from exclave.proxy.process.binary import ProxyUser
from exclave.proxy.process.held import InstanceProcess
from exclave.proxy.process.records import RecordFile, find_executable
from exclave.proxy.process.systemd import read_output
from exclave.proxy.process.units import Units
from exclave_sandbox.stage.mesh import NAMESPACE, VM
from support.fake_systemd import fake_systemd
from support.mesh import RECORD, mesh
from support.mesh_cluster import MeshCluster, open_mesh_cluster

RECORDING_PROGRAMS = Path(__file__).parents[1] / "support/recording_programs"
"""Programs `nft` and `ip` that only append their calls to the file `trace` beside their folder."""

GOLDEN = Path(__file__).parent / "golden" / "leaving-from-cold.txt"

PROXY = """
import signal, sys
def end(*_):
    with open(sys.argv[1], "a") as trace:
        trace.write("proxy ended\\n")
    sys.exit()
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[2:] else end)
print("up", flush=True)
while True: signal.pause()
"""


def make_config(folder: Path, drain: float = 20.0) -> Config:
    return Config(
        paths=Paths(folder / "state", folder / "run"),
        member=MemberConfig(VM),
        proxy=ProxyConfig(drain=drain),
        listing=ListingConfig(drain=0.0),
    )


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is done, in order; `nft` and `ip` only write their calls there."""
    shutil.copytree(RECORDING_PROGRAMS, tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    return tmp_path / "trace"


@contextmanager
def running_proxy(
    runtime: Path, trace: Path, *, stubborn: bool = False, instance: Instance = "a"
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process on record as an instance."""
    make_folder(runtime, 0o755)
    command = [sys.executable, "-c", PROXY, trace, *(["stubborn"] if stubborn else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        RecordFile(runtime).add(instance, process.pid, find_executable(Path(sys.executable)), "digest")
        (runtime / f"proxy-{instance}.log").touch()
        try:
            yield process
        finally:
            process.kill()


@asynccontextmanager
async def listed_member(folder: Path, config: Config) -> AsyncIterator[tuple[MeshCluster, MembershipRecord]]:
    """A member whose ports are listed, and whose agent is gone."""
    async with open_mesh_cluster(folder) as cluster:
        token = encode_token(await cluster.join_token())
        record = await join(token, config, time.time, lambda _: None)
        await cluster.admin.send(patch(MEMBERS, NAMESPACE, record.member, {"spec": {"serving": True}}))
        with trio.fail_after(20):
            async with cluster.admin.watch(MEMBERS, NAMESPACE, record.member) as events:
                async for event in events:
                    assert isinstance(event, Upserted)
                    if event.object["status"].get("externalWorkload", {}).get("ports"):
                        break
        yield cluster, record


def traced(trace: Path, state: Path, admin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write to the trace what the machine and the controller say to the API server that others will notice."""
    whole = Exchange.answer

    async def answer(exchange: Exchange, request: Request, fence: Any = None) -> Any:
        line = _worth_telling(request)
        if line and exchange._token() != admin:
            with trace.open("a") as file:
                file.write(f"{line}\n")
                if request.verb == "delete":
                    file.write(f"    on disk: {', '.join(sorted(path.name for path in state.iterdir()))}\n")
        return await whole(exchange, request, fence)

    monkeypatch.setattr(Exchange, "answer", answer)


def _worth_telling(request: Request) -> str | None:
    kind, _, name = request.what.partition(" ")
    body: dict[str, Any] = request.body or {}
    if request.verb == "delete" and kind == "members":
        return f"delete Member {name}"
    if request.verb == "patch" and kind == "members" and "serving" in body.get("spec", {}):
        return f"Member {name}: serving={body['spec']['serving']} dataPath={body['spec']['dataPath']}"
    if request.verb == "patch" and is_withdrawn(body):
        return f"controller: ExternalWorkload {name} is marked as withdrawn"
    if request.verb == "patch" and kind == "externalworkloads" and "ports" in body.get("spec", {}):
        return f"controller: ports of ExternalWorkload {name}: {body['spec']['ports']}"
    conditions = body.get("status", {}).get("conditions", []) if kind.startswith("externalworkloads") else []
    told = [f"{each['type']}={each['status']} {each['reason']}" for each in conditions]
    return f"ExternalWorkload {name}: {', '.join(told)}" if told else None


async def test_ports_are_withdrawn_first_then_proxy_rules_link_and_last_the_member(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path)
    async with listed_member(tmp_path, config) as (cluster, record):
        with running_proxy(config.paths.runtime, trace):
            traced(trace, config.paths.state, cluster.api.admin_token, monkeypatch)
            with trio.fail_after(60):
                assert await departure.depart(record, config, time.time) == []
        found = await cluster.find(MEMBERS, record.member)
    assert found is None or "deletionTimestamp" in found["metadata"]
    told = trace.read_text().splitlines()
    until = next(number for number, line in enumerate(told) if "on disk" in line)
    assert told[: until + 1] == GOLDEN.read_text().splitlines()[1:]  # what the controller does then is its own affair
    assert list(config.paths.state.iterdir()) == []


async def test_while_rules_remain_the_machine_stays_a_leaving_member(trace: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path)
    nft = tmp_path / "bin/nft"
    working = nft.read_text()
    async with listed_member(tmp_path, config) as (cluster, record):
        nft.write_text('#!/bin/sh\necho "Operation not permitted" >&2; exit 1\n')
        for _ in range(2):
            with pytest.raises(HostError) as caught:
                await departure.depart(load_membership(config.paths.state) or record, config, time.time)
            assert caught.value.fault is Fault.NO_PRIVILEGE
            assert load_membership(config.paths.state) == replace(record, leaving=True)
            found = await cluster.find(MEMBERS, record.member)
            assert found is not None
            assert "deletionTimestamp" not in found["metadata"]
        nft.write_text(working)
        assert await departure.depart(record, config, time.time) == []
    assert list(config.paths.state.iterdir()) == []


@pytest.fixture
def undone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is undone on the machine, where virtual time would outrun real programs."""
    done: list[str] = []

    async def drain_table() -> None:
        done.append("held")

    async def remove_table() -> None:
        done.append("rules")

    async def remove_link() -> None:
        done.append("link")

    async def remove_private_table() -> None:
        done.append("private rules")

    monkeypatch.setattr(departure, "drain_table", drain_table)
    monkeypatch.setattr(departure, "remove_table", remove_table)
    monkeypatch.setattr(departure, "remove_link", remove_link)
    monkeypatch.setattr(departure, "remove_private_table", remove_private_table)
    return done


async def test_a_cluster_that_is_away_delays_nothing_on_the_machine(
    undone: list[str], tmp_path: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(tmp_path)
    record = replace(RECORD, servers=("https://127.0.0.1:1",), ca=mesh().anchor.pem)
    make_folder(config.paths.state, 0o700)
    make_folder(config.paths.runtime, 0o755)
    store_membership(config.paths.state, record)
    credential = Credential("t", time.time(), time.time() + 3600)
    (config.paths.state / "credential.json").write_text(render_credential(credential))
    assert await departure.depart(record, config, time.time) == ["Member shop/web-k7q2x-1"]
    assert "the ports were not withdrawn within 30 s: going on without the cluster" in caplog.messages
    assert undone == ["held", "rules", "link", "private rules"]
    assert list(config.paths.state.iterdir()) == []


async def test_without_a_credential_everything_of_the_machine_s_own_goes(
    undone: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(tmp_path)
    state = config.paths.state
    make_folder(state, 0o700)
    store_membership(state, RECORD)
    assert await departure.depart(RECORD, config, time.time) == ["Member shop/web-k7q2x-1"]
    assert undone == ["held", "rules", "link", "private rules"]
    assert list(state.iterdir()) == []
    assert caplog.messages == [f"cannot read {state}/credential.json: No such file or directory"]


def test_forgetting_leaves_nothing_and_may_be_repeated(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    state = config.paths.state
    make_folder(state, 0o700)
    store_membership(state, RECORD)
    store_join(state, JoinRecord("nonce", "web-k7q2x-1", "sha", "key"))
    store_eviction(state, RECORD, 0.0)
    for name in ("credential.json", "server-addresses.json", "settings.json", "svid.json", "next.key"):
        (state / name).touch()
    for _ in range(2):
        departure.forget_everything(config.paths)
        assert list(state.iterdir()) == []


async def test_a_leave_that_was_cut_off_is_ended_and_a_join_or_a_member_is_left_alone(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    state, runtime = config.paths.state, config.paths.runtime
    for folder in (state, runtime):
        make_folder(folder, 0o700)
    names = ("credential.json", "server-addresses.json", "svid.json", "next.key")
    left = [*(state / name for name in names), runtime / "boot.json"]
    for path in left:
        path.touch()
    store_membership(state, RECORD)
    departure.forget_remnants(config.paths)
    forget_membership(state)
    store_join(state, JoinRecord("nonce", "web-k7q2x-1", "sha", "key"))
    departure.forget_remnants(config.paths)
    assert all(path.exists() for path in left)
    forget_join(state)
    departure.forget_remnants(config.paths)
    assert not any(path.exists() for path in left)


# clean_up.


async def test_what_an_agent_that_was_killed_had_for_its_proxies_is_removed(trace: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path)
    make_folder(config.paths.runtime, 0o755)
    for name in ("resolv.conf", "workload.sock", "proxy-a.log", "proxy-b.log.1", "agent.lock"):
        (config.paths.runtime / name).touch()
    await departure.clean_up(config)
    assert [path.name for path in config.paths.runtime.iterdir()] == ["agent.lock"]


async def test_cleaning_up_ends_the_proxy_while_rules_hold_what_it_serves(trace: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path)
    runtime = config.paths.runtime
    with running_proxy(runtime, trace) as process:
        ended = f"proxy process {process.pid} ended"
        assert await departure.clean_up(config) == [ended, "rules removed", "link removed"]
    assert trace.read_text().splitlines() == [
        "nft: hold",
        "proxy ended",
        "nft: remove",
        "ip -json address show",
        "nft: remove private",
    ]
    assert list(runtime.iterdir()) == []
    assert await departure.clean_up(config) == ["rules removed", "link removed"]


async def test_both_proxies_of_a_swap_are_ended(trace: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path)
    runtime = config.paths.runtime
    with running_proxy(runtime, trace) as one, running_proxy(runtime, trace, instance="b") as other:
        done = await departure.clean_up(config)
        assert set(done) == {
            f"proxy process {one.pid} ended",
            f"proxy process {other.pid} ended",
            "rules removed",
            "link removed",
        }
    assert trace.read_text().splitlines()[:4] == ["nft: hold", "proxy ended", "proxy ended", "nft: remove"]
    assert list(runtime.iterdir()) == []


async def test_units_of_the_proxy_are_ended_with_their_files_also_without_a_record(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path)
    runtime = config.paths.runtime
    fake_systemd(tmp_path, monkeypatch)
    monkeypatch.setattr(departure, "may_have_units", lambda: True)
    program = tmp_path / "proxy"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{PROXY}' {trace}\n")
    program.chmod(0o755)
    units, pids = Units(runtime, ProxyUser("nobody", 65534, 65534)), []
    units.write_etc("169.254.77.3")
    for instance in INSTANCES:
        process = await units.start(instance, program, {})
        while "up" not in await read_output(process.invocation, 1):
            pass  # until it has its handler for SIGTERM
        pids.append(process.pid)
        process.close()
    done = await departure.clean_up(config)
    assert set(done) == {*(f"proxy process {pid} ended" for pid in pids), "rules removed", "link removed"}
    assert trace.read_text().splitlines()[:4] == ["nft: hold", "proxy ended", "proxy ended", "nft: remove"]
    assert list(runtime.iterdir()) == []
    assert await departure.clean_up(config) == ["rules removed", "link removed"]


async def test_a_proxy_that_does_not_end_in_time_is_killed(trace: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, drain=0.0)
    with running_proxy(config.paths.runtime, trace, stubborn=True) as process:
        assert f"proxy process {process.pid} ended" in await departure.clean_up(config)
        assert process.wait() == -signal.SIGKILL  # it has ended already


async def test_a_proxy_that_cannot_be_ended_stays_on_record_and_the_rest_is_removed(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(process: InstanceProcess, drain: float) -> None:
        await trio.lowlevel.checkpoint()
        raise HostError(Fault.PROXY_UNUSABLE, f"process {process.pid} does not end", "end it")

    config = make_config(tmp_path)
    with running_proxy(config.paths.runtime, trace) as process:
        monkeypatch.setattr(departure, "end_process", fail)
        with pytest.raises(HostError, match=f"process {process.pid} does not end"):
            await departure.clean_up(config)
        assert "nft: remove" in trace.read_text().splitlines()
        monkeypatch.undo()
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
        assert f"proxy process {process.pid} ended" in await departure.clean_up(config)


async def test_a_process_that_was_never_ours_is_left_alone(trace: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path)
    runtime = config.paths.runtime
    with running_proxy(runtime, trace) as process:
        record = RecordFile(runtime).read()["a"]
        RecordFile(runtime)._write({"a": replace(record, start_ticks=record.start_ticks - 1)})
        assert await departure.clean_up(config) == ["rules removed", "link removed"]
        assert process.poll() is None
    assert RecordFile(runtime).read() == {}
    assert "proxy ended" not in trace.read_text()


async def test_while_rules_cannot_be_removed_their_proxy_runs(trace: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path)
    (tmp_path / "bin/nft").write_text('#!/bin/sh\necho "Operation not permitted" >&2; exit 1\n')
    with running_proxy(config.paths.runtime, trace) as process:
        with pytest.raises(HostError) as caught:
            await departure.clean_up(config)
        assert caught.value.fault is Fault.NO_PRIVILEGE
        assert process.poll() is None
        assert "a" in RecordFile(config.paths.runtime).read()
