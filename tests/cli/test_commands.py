"""join, leave and cleanup with a cluster in another thread, and with agents of fixed replies."""

import io
import json
import logging
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from cli.golden_failures import golden_failures, shown_failure
from cli.vm import Vm
from exclave.api.join_token import encode_token
from exclave.api.requests import MEMBERS, ROLE_BINDINGS, SERVICE_ACCOUNTS, WORKLOAD_GROUPS, create, delete
from exclave.cli import commands
from exclave.confirm.confirm import Unconfirmed, load_unconfirmed, store_unconfirmed
from exclave.errors import error_object
from exclave.join import refusals
from exclave.kit.host.files import make_folder
from exclave.member.record import (
    JoinRecord,
    forget_membership,
    load_membership,
    store_join,
)
from exclave.milestones import Joining, milestone_line
from exclave_sandbox.pki import make_anchor
from exclave_sandbox.stage.mesh import NAMESPACE, VM
from support.cluster_thread import ClusterThread, open_cluster_thread
from support.fake_replies import fake_replies, json_lines
from support.mesh import RECORD
from support.mesh_cluster import MeshCluster
from support.store import member

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("folder")]

VMS = f"{NAMESPACE}-vms"
FIRST = f"{NAMESPACE}/web-k7q2x-1"


@pytest.fixture
def thread(tmp_path: Path) -> Iterator[ClusterThread]:
    with open_cluster_thread(tmp_path) as opened:
        yield opened


def removed(resource: Any, namespace: str, name: str) -> Callable[[MeshCluster], Any]:
    return lambda cluster: cluster.admin.send(delete(resource, namespace, name))


# join.


def test_a_join_reports_its_steps_and_the_next_one(
    thread: ClusterThread, vm: Vm, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vm.join(thread.run(MeshCluster.join_token)) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines()[1:] == [
        f"address: [chosen={VM} why=configured]",
        f"Member {FIRST} stands, waiting for the controller to admit it",
        "admitted as web-k7q2x-1; the credential is stored",
        "certificate for spiffe://cluster.local/ns/shop/sa/web",
        f"joined as {FIRST}",
        "no agent runs on this machine; start it: exclave run",
    ]
    record = load_membership(vm.state)
    assert record is not None
    assert f"{record.namespace}/{record.member}" == FIRST
    assert not (vm.runtime / "join.lock").exists()


def test_a_join_from_standard_input_shows_no_token_and_one_object(
    thread: ClusterThread, vm: Vm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = encode_token(thread.run(MeshCluster.join_token))
    monkeypatch.setattr("sys.stdin", io.StringIO(token + "\n"))
    assert vm.run("join", "--token-file", "-", "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "joined": {"namespace": "shop", "group": "web", "member": "web-k7q2x-1"},
        "state": None,
        "reason": "no agent runs on this machine",
    }
    assert token[:40] not in shown.err
    assert "warning" not in shown.err


def used_by_another(thread: ClusterThread, vm: Vm) -> int:
    token = thread.run(MeshCluster.join_token)
    thread.run(lambda cluster: cluster.admin.send(create(MEMBERS, NAMESPACE, member("web-k7q2x-1"))))
    return vm.join(token)


def after(prepare: Callable[[MeshCluster], Any]) -> Callable[[ClusterThread, Vm], int]:
    def case(thread: ClusterThread, vm: Vm) -> int:
        token = thread.run(MeshCluster.join_token)
        thread.run(prepare)
        return vm.join(token)

    return case


async def without_group(cluster: MeshCluster) -> None:
    """Delete the group, and wait until the controller has let it go."""
    await cluster.admin.send(delete(WORKLOAD_GROUPS, NAMESPACE, "web"))
    with trio.fail_after(30):
        while await cluster.find(WORKLOAD_GROUPS, "web", NAMESPACE) is not None:  # noqa: ASYNC110  another thread
            await trio.sleep(0.05)


def late_for_its_group(thread: ClusterThread, vm: Vm) -> int:
    """With a token that the group's end did not revoke, which is a matter of luck with one that was made before."""
    thread.run(without_group)
    return vm.join(thread.run(MeshCluster.join_token))


def with_clock(ahead: float) -> Callable[[ClusterThread, Vm], int]:
    def case(thread: ClusterThread, vm: Vm) -> int:
        token = thread.run(MeshCluster.join_token)
        shifted = SimpleNamespace(time=lambda: time.time() + ahead, monotonic=time.monotonic)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(commands, "time", shifted)
            return vm.join(token)

    return case


def on_a_clone(thread: ClusterThread, vm: Vm) -> int:
    folder = vm.state.parent
    assert Vm(folder, "twin").join(thread.run(MeshCluster.join_token)) == 0
    return vm.join(thread.run(partial(MeshCluster.join_token, token_id="aaaaa")))


def elsewhere(thread: ClusterThread, vm: Vm) -> int:
    return Vm(vm.state.parent, "elsewhere", "192.0.2.7").join(thread.run(MeshCluster.join_token))


REFUSALS: dict[str, Callable[[ClusterThread, Vm], int]] = {
    "[12 token-expired] join two hours later": with_clock(7200),
    "[13 token-revoked] join with a token whose account was deleted": after(
        removed(SERVICE_ACCOUNTS, VMS, "web.join.k7q2x-1")
    ),
    "[14 token-used-up] join where another machine has the token's one name": used_by_another,
    "[15 group-gone] join a group that was deleted": late_for_its_group,
    "[16 ca-mismatch] join where the server is signed by another CA": lambda thread, vm: vm.join(
        replace(thread.run(MeshCluster.join_token), ca=make_anchor().pem)
    ),
    "[21 machine-known] join from a clone of a living machine": on_a_clone,
    "[22 address-refused] join from outside of the group's networks": elsewhere,
    "[23 unreachable] join while the API server is away": after(lambda cluster: cluster.api.server.close()),
    "[24 not-permitted] join where machines have lost their rights": after(
        removed(ROLE_BINDINGS, NAMESPACE, "exclave-machines")
    ),
    "[25 clock-skew] join with a clock ten minutes ahead": with_clock(600),
}


@pytest.mark.parametrize("title", REFUSALS)
def test_a_refusal_has_its_code_its_text_and_a_hint(
    title: str, thread: ClusterThread, vm: Vm, capsys: pytest.CaptureFixture[str]
) -> None:
    code = REFUSALS[title](thread, vm)
    assert failure_without_details(capsys, thread) == golden_failures()[title]
    assert title.startswith(f"[{code} ")
    assert load_membership(vm.state) is None


def test_a_missing_controller_is_an_error_after_a_minute(
    tmp_path: Path, vm: Vm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "PATIENCE", 0.5)  # made short, which the text says as 0 s
    with open_cluster_thread(tmp_path, controlled=False) as thread:
        assert vm.join(thread.run(MeshCluster.join_token)) == 26
        failure = failure_without_details(capsys, thread).replace("within 0 s", "within 60 s")
    assert failure == golden_failures()["[26 not-admitted] join while the controller is away"]


def failure_without_details(capsys: pytest.CaptureFixture[str], thread: ClusterThread) -> str:
    """The failure, without what is another port, time or clock in every run."""
    failure = shown_failure(capsys.readouterr().err, SERVER=thread.cluster.api.server.url)
    failure = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", failure)
    return re.sub(r"is (599|600|601) s behind", "is 600 s behind", failure)


class Interrupter(logging.Handler):
    """Sends SIGINT to this process when a milestone is logged, once."""

    def __init__(self, milestone: Joining) -> None:
        super().__init__()
        self._line: str | None = milestone_line(milestone)

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == self._line:
            self._line = None
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("milestone", Joining)
def test_an_interrupted_join_ends_with_130_and_goes_on_with_the_same_command(
    milestone: Joining, thread: ClusterThread, vm: Vm, caplog: pytest.LogCaptureFixture
) -> None:
    token = thread.run(MeshCluster.join_token)
    log, interrupter = logging.getLogger("exclave.milestones"), Interrupter(milestone)
    caplog.set_level(logging.INFO, "exclave.milestones")
    log.addHandler(interrupter)
    try:
        assert vm.join(token) == 130
        assert not (vm.runtime / "join.lock").exists()
        assert vm.join(token) == 0
    finally:
        log.removeHandler(interrupter)
    record = load_membership(vm.state)
    assert record is not None and record.member == "web-k7q2x-1"


# confirm.


def test_a_join_that_fails_leaves_nothing_to_confirm(thread: ClusterThread, vm: Vm) -> None:
    assert used_by_another(thread, vm) == 14
    assert vm.run("join", encode_token(thread.run(MeshCluster.join_token)), "--confirm", "60s") == 14
    assert load_unconfirmed(vm.state) is None


@pytest.mark.parametrize(
    ("confirmed", "failure"), [(True, "confirmed: the rules are permanent"), (False, "there was nothing to confirm")]
)
def test_a_running_agent_confirms(vm: Vm, confirmed: bool, failure: str, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_replies(vm.runtime, json_lines({"confirmed": confirmed})) as asked:
        assert vm.run("confirm", "--json") == 0
    assert asked == ["confirm"]
    shown = capsys.readouterr()
    assert (shown.err.strip(), json.loads(shown.out)) == (failure, {"confirmed": confirmed})


def test_without_an_agent_the_note_is_removed_and_rules_that_still_capture_stay(
    vm: Vm, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    armed = {"set": {"name": "armed", "table": "exclave", "elem": [{"elem": {"val": "tcp", "expires": 41}}]}}
    listing = json.dumps({"nftables": [{"table": {"name": "exclave"}}, armed]})
    nft = folder / "bin" / "nft"
    nft.write_text(f"#!/bin/sh\ncat >> {folder}/trace\necho '{listing}'\n")
    assert vm.run("confirm") == 0
    assert not (folder / "trace").exists()  # nothing to confirm, nothing looked at
    vm.be_member()
    store_unconfirmed(vm.state, Unconfirmed(60.0, begun=True))
    assert vm.run("confirm") == 0
    assert load_unconfirmed(vm.state) is None
    assert (folder / "trace").read_text().splitlines() == [
        "flush set inet exclave armed",
        "add element inet exclave armed { tcp }",
    ]
    assert capsys.readouterr().err.splitlines() == [
        "there was nothing to confirm",
        "confirmed: the rules are permanent",
    ]


# leave.


def test_the_agent_leaves_if_one_runs(vm: Vm, capsys: pytest.CaptureFixture[str]) -> None:
    vm.be_member()
    with fake_replies(vm.runtime, json_lines({"state": "leaving"}, {"state": "unjoined", "remains": []})) as asked:
        assert vm.run("leave") == 0
    assert asked == ["leave"]
    assert capsys.readouterr().err == f"the agent is leaving\nleft {FIRST}\n"


def test_remaining_objects_are_reported_with_the_command_that_deletes_them(
    vm: Vm, capsys: pytest.CaptureFixture[str]
) -> None:
    vm.be_member()
    with fake_replies(vm.runtime, json_lines({"state": "unjoined", "remains": [f"Member {FIRST}"]})):
        assert vm.run("leave", "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"left": True, "remains": [f"Member {FIRST}"]}
    assert shown.err.splitlines()[-1] == (
        f"remains in the cluster: Member {FIRST}; an admin removes it: kubectl -n shop delete member web-k7q2x-1"
    )


def test_a_rebuilt_cluster_is_joined_before_the_former_membership_is_left(
    thread: ClusterThread, tmp_path: Path, vm: Vm, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vm.join(thread.run(MeshCluster.join_token)) == 0
    (tmp_path / "rebuilt").mkdir()
    with open_cluster_thread(tmp_path / "rebuilt") as rebuilt:
        capsys.readouterr()
        assert vm.join(rebuilt.run(partial(MeshCluster.join_token, token_id="aaaaa")), "--again") == 0
        failure = capsys.readouterr().err
        record = load_membership(vm.state)
        assert record is not None
        assert (record.member, record.servers) == ("web-aaaaa-1", (rebuilt.cluster.api.server.url,))
        assert failure.index("joined as shop/web-aaaaa-1") < failure.index(f"leaving the former membership {FIRST}")
        assert sorted(path.name for path in vm.state.iterdir()) == [
            "credential.json",
            "membership.json",
            "settings.json",
            "svid.json",
        ]
    former = thread.run(lambda cluster: cluster.find(MEMBERS, "web-k7q2x-1"))
    assert former is None or "deletionTimestamp" in former["metadata"]


def test_a_refused_token_changes_nothing_for_a_member(
    thread: ClusterThread, vm: Vm, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vm.join(thread.run(MeshCluster.join_token)) == 0
    before = {path.name: path.read_bytes() for path in vm.state.iterdir()}
    elsewhere = replace(thread.run(partial(MeshCluster.join_token, token_id="aaaaa")), ca=make_anchor().pem)
    assert vm.join(elsewhere, "--again") == 16
    assert {path.name: path.read_bytes() for path in vm.state.iterdir() if path.is_file()} == before
    assert vm.run("leave") == 0
    assert list(vm.state.iterdir()) == []


def test_a_machine_joins_again_under_its_own_name_with_a_token_for_it(
    thread: ClusterThread, vm: Vm, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vm.join(thread.run(MeshCluster.join_token)) == 0
    uid = thread.run(lambda cluster: cluster.find(MEMBERS, "web-k7q2x-1"))["metadata"]["uid"]
    token = thread.run(partial(MeshCluster.rejoin_token, member="web-k7q2x-1"))
    assert vm.join(token) == 14, "its Member stands: nobody has made room"
    thread.run(lambda cluster: cluster.admin.send(delete(MEMBERS, NAMESPACE, "web-k7q2x-1")))
    capsys.readouterr()
    assert vm.join(token) == 0
    assert f"waiting for what was Member {FIRST} to be gone" in capsys.readouterr().err
    found = thread.run(lambda cluster: cluster.find(MEMBERS, "web-k7q2x-1"))
    assert found["metadata"]["uid"] != uid
    assert load_membership(vm.state).member == "web-k7q2x-1"


def test_without_an_agent_it_leaves_from_cold_and_twice_is_once(
    thread: ClusterThread, folder: Path, vm: Vm, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vm.join(thread.run(MeshCluster.join_token)) == 0
    capsys.readouterr()
    with fake_replies(vm.runtime, json_lines({"state": "leaving"})):  # one that falls over on the way
        assert vm.run("leave") == 0
    assert capsys.readouterr().err.splitlines() == [
        "the agent is leaving",
        "no agent runs; leaving without one",
        f"left {FIRST}",
    ]
    assert list(vm.state.iterdir()) == []
    deleted = thread.run(lambda cluster: cluster.find(MEMBERS, "web-k7q2x-1"))
    assert deleted is None or "deletionTimestamp" in deleted["metadata"]
    assert (folder / "trace").read_text().splitlines()[:2] == ["nft: hold", "nft: remove"]
    assert vm.run("leave", "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"left": False, "remains": []}
    assert shown.err == "this machine is not a member\n"


def test_a_dry_run_of_a_leave_prints_what_would_go_and_asks_nobody(
    folder: Path, vm: Vm, capsys: pytest.CaptureFixture[str]
) -> None:
    vm.be_member()
    with fake_replies(vm.runtime) as asked:
        assert vm.run("leave", "--dry-run") == 0
    assert asked == []
    assert capsys.readouterr().out.splitlines() == [
        "exclave leave would end or remove:",
        "  Member shop/web-k7q2x-1, with its account, Lease and ExternalWorkload",
        "  table inet exclave",
        "  table inet exclave-private",
        f"  file {vm.state}/membership.json",
    ]
    assert vm.run("leave", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["dryRun"]["files"] == [f"{vm.state}/membership.json"]
    assert load_membership(vm.state) == RECORD
    assert (folder / "trace").read_text().splitlines() == ["ip -json address show"] * 2


def test_leaving_without_a_membership_creates_nothing(vm: Vm, capsys: pytest.CaptureFixture[str]) -> None:
    assert vm.run("leave") == 0
    assert capsys.readouterr().err == "this machine is not a member\n"
    assert not vm.state.exists()
    assert not vm.runtime.exists()


def test_rules_of_a_crashed_agent_are_no_success(
    folder: Path, vm: Vm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fall_over(*_: object) -> None:
        forget_membership(vm.state)

    vm.be_member()
    nft = (folder / "bin/nft").read_text()
    (folder / "bin/nft").write_text('#!/bin/sh\necho "Operation not permitted" >&2; exit 1\n')
    monkeypatch.setattr(commands, "_ask_to_leave", fall_over)
    assert [vm.run("leave"), vm.run("leave")] == [30, 30]
    (folder / "bin/nft").write_text(nft)
    assert vm.run("leave") == 0
    assert capsys.readouterr().err.splitlines()[-1] == "this machine is not a member"


def test_a_failed_removal_of_the_agent_is_its_own_error(vm: Vm, capsys: pytest.CaptureFixture[str]) -> None:
    vm.be_member()
    error = error_object(33, "disk", "cannot write FILE: Read-only file system", "mount it writable")
    with fake_replies(vm.runtime, json_lines(error)):
        assert vm.run("leave") == 33
    assert capsys.readouterr().err == "exclave: cannot write FILE: Read-only file system\n  to do: mount it writable\n"


def test_leaving_removes_files_of_an_unfinished_join(vm: Vm) -> None:
    make_folder(vm.state, 0o700)
    store_join(vm.state, JoinRecord("nonce", "web-k7q2x-1", "sha", "key"))
    assert vm.run("leave") == 0
    assert list(vm.state.iterdir()) == []


# cleanup.


def test_cleanup_reports_its_steps_and_the_membership_stays(
    folder: Path, vm: Vm, capsys: pytest.CaptureFixture[str]
) -> None:
    vm.be_member()
    for _ in range(2):
        assert vm.run("cleanup", "--json") == 0
        shown = capsys.readouterr()
        assert json.loads(shown.out) == {"done": ["rules removed", "link removed"]}
        assert shown.err == (
            "rules removed\nlink removed\n"
            "this machine is still a member, and pods may still send traffic here: exclave run, or exclave leave\n"
        )
    assert load_membership(vm.state) == RECORD
    assert (folder / "trace").read_text().splitlines() == [
        "nft: hold",
        "nft: remove",
        "ip -json address show",
        "nft: remove private",
    ] * 2
