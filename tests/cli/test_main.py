"""Commands: exit codes, fixed words, and every text that needs no cluster."""

import base64
import json
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from cli.golden_failures import golden_failures, shown_failure
from exclave import __version__
from exclave.api.join_token import JoinToken, encode_token
from exclave.cli import main as cli
from exclave.cluster.credential import Credential, render_credential
from exclave.config import Paths
from exclave.daemon.status import build_status
from exclave.errors import ClusterError, Fault, error_object
from exclave.kit.host.files import hold_lock, make_folder
from exclave.member.record import AGAIN, store_membership
from exclave.member.state import State
from support.fake_replies import fake_replies, json_lines
from support.mesh import RECORD, mesh

CLAIMS = base64.urlsafe_b64encode(b'{"sub": "system:serviceaccount:shop-vms:web.join.k7q2x-1"}').decode().rstrip("=")
CA = mesh().anchor.pem
TOKEN = JoinToken(("https://127.0.0.1:1",), CA, "shop", "web", f"e.{CLAIMS}.s", 4102444800.0)
"""For a server that refuses connections."""
JOINING = encode_token(TOKEN)


class Host:
    """A machine as far as commands see one: folders, a configuration, and no program but those that are put there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state, self.runtime = folder / "state", folder / "run"
        self.programs = folder / "bin"
        self.programs.mkdir()
        self.configure()

    def configure(self, *lines: str, state: str | None = None) -> None:
        paths = f'[paths]\nstate = "{state or self.state}"\nruntime = "{self.runtime}"\n'
        (self.folder / "config.toml").write_text(paths + "\n".join(lines))

    def run(self, command: str, *arguments: str) -> int:
        return cli.main([command, *arguments, "--config", str(self.folder / "config.toml")])

    def join(self, token: str, *arguments: str) -> int:
        (self.folder / "token").write_text(token)
        return self.run("join", "--token-file", str(self.folder / "token"), *arguments)

    def be_member(self) -> None:
        make_folder(self.state, 0o700)
        store_membership(self.state, replace(RECORD, ca=CA))
        (self.state / "credential.json").write_text(render_credential(Credential("t", 0.0, 4102444800.0)))

    def program(self, name: str, script: str) -> None:
        (self.programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.programs / name).chmod(0o755)

    def has_tools(self) -> None:
        """With an nft and an ip that accept everything."""
        self.program("nft", """[ "$1" != -j ] || echo '{"nftables": []}'""")
        self.program("ip", "echo '[]'")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    # Short names: a socket's path has 107 characters.
    with tempfile.TemporaryDirectory() as folder:
        made = Host(Path(folder))
        monkeypatch.setenv("PATH", str(made.programs))
        monkeypatch.setattr("os.geteuid", lambda: 0)
        monkeypatch.setattr("sys.argv", ["exclave", "test"])
        monkeypatch.setattr("exclave.host_check.check.can_change_network", lambda: True)
        monkeypatch.setattr("exclave.host_check.check._is_occupied", lambda kind, port: False)
        yield made


def for_an_account_of_nobody() -> str:
    body = {"servers": list(TOKEN.servers), "ca": CA, "namespace": "shop", "group": "web", "token": "t"}
    packed = zlib.compress(json.dumps(body | {"expires": "2100-01-01T00:00:00Z"}).encode())
    return "exclave1_" + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def where_another_agent_runs(host: Host, command: str) -> int:
    host.has_tools()
    make_folder(host.runtime, 0o755)
    with hold_lock(host.runtime / "agent.lock", "", ""):
        return host.run(command)


def where_another_join_runs(host: Host) -> int:
    make_folder(host.runtime, 0o755)
    with hold_lock(host.runtime / "join.lock", "", ""):
        return host.join("any")


def leaving_where_a_join_runs(host: Host) -> int:
    make_folder(host.runtime, 0o755)
    make_folder(host.state, 0o700)
    make_folder(host.state / AGAIN, 0o700)
    files = [host.state / "credential.json", host.state / "join.json", host.state / AGAIN / "credential.json"]
    for path in files:
        path.touch()
    with hold_lock(host.runtime / "join.lock", "", ""):
        code = host.run("leave")
    assert all(path.exists() for path in files)
    return code


def with_a_file_that_stays(host: Host) -> int:
    host.has_tools()
    (host.state / AGAIN / "credential.json").mkdir(parents=True)
    (host.state / AGAIN / "svid.json").touch()
    (host.state / "credential.json").touch()
    code = host.run("leave")
    assert [path.name for path in host.state.iterdir()] == [AGAIN]
    assert [path.name for path in (host.state / AGAIN).iterdir()] == ["credential.json"]
    return code


def as_member(host: Host, *lines: str) -> int:
    """Run the agent with these lines in config.toml."""
    host.configure('[member]\naddress = "10.77.0.20"', *lines)
    host.be_member()
    return host.run("run")


def with_links(host: Host, *links: dict[str, object]) -> int:
    host.has_tools()
    host.program("ip", f"echo '{json.dumps(links)}'")
    return as_member(host, '[proxy]\nuser = "nobody"')


def with_rules_of_linkerd(host: Host) -> int:
    """As linkerd2-proxy-init makes them with iptables-nft."""
    place = {"family": "ip", "table": "nat"}
    listing = [
        {"chain": {**place, "name": "PROXY_INIT_REDIRECT"}},
        {"chain": {**place, "name": "PREROUTING", "hook": "prerouting", "type": "nat"}},
        {"rule": {**place, "chain": "PREROUTING", "expr": [{"jump": {"target": "PROXY_INIT_REDIRECT"}}]}},
    ]
    host.has_tools()
    host.program("nft", f"""[ "$1" != -j ] || echo '{json.dumps({"nftables": listing})}'""")
    return host.run("run")


def below_a_file(host: Host) -> int:
    (host.folder / "file").touch()
    host.configure(state=f"{host.folder}/file/state")
    return host.join(encode_token(TOKEN))


def damaged(host: Host) -> int:
    host.be_member()
    (host.state / "membership.json").write_text("{")
    return host.run("leave")


def badly_configured(host: Host) -> int:
    host.configure("[proxy]\nbinary = 7\n[redirect]\nexclude_users = [1.5, true]")
    return host.run("status")


def install_from_nowhere(host: Host) -> int:
    host.configure(f'[proxy]\nuser = "nobody"\nstore = "{host.folder}/proxies"\nbinary = "{host.folder}/proxy"')
    return host.run("proxy", "install", "127.0.0.1:1/linkerd/proxy:v1")


def listening_without_a_port(host: Host) -> int:
    (host.folder / "ca.crt").write_text(CA)
    access = ["--server", "https://10.0.0.1", "--ca-file", str(host.folder / "ca.crt")]
    return cli.main(["controller", *access, "--listen", "here"])


def with_patch(name: str, replacement: object, case: "Case") -> "Case":
    def patched_case(host: Host) -> int:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(name, replacement)
            return case(host)

    return patched_case


def join_on_a_checked_host(host: Host) -> int:
    return with_patch("exclave.cli.commands._check", lambda token, config: None, lambda host: host.join(JOINING))(host)


async def hang(*_: object, **__: object) -> None:
    raise trio.TooSlowError


Case = Callable[[Host], int]

CASES: dict[str, Case] = {
    "[2 usage] join with a token file that is not there": lambda host: host.run("join", "--token-file", "/nowhere"),
    "[2 usage] controller outside of a cluster, not told where one is": lambda host: cli.main(
        ["controller", "--ca-file", "/nowhere"]
    ),
    "[2 usage] controller that listens without a port": listening_without_a_port,
    "[2 usage] explain without a port": lambda host: host.run("explain", "10.42.0.9"),
    "[2 usage] explain for a user that does not exist": lambda host: host.run(
        "explain", "10.42.0.9:80", "--user", "nobody-here"
    ),
    "[10 token-malformed] join with something else": lambda host: host.join("eyJhbGciOi"),
    "[10 token-malformed] join with half of a token": lambda host: host.join(encode_token(TOKEN)[:100]),
    "[10 token-malformed] join with a token that a slip has spoilt": lambda host: host.join("exclave1_%%%"),
    "[10 token-malformed] join with a token that lets nobody join": lambda host: host.join(for_an_account_of_nobody()),
    "[11 token-version] join with a token of a later exclave": lambda host: host.join(
        encode_token(TOKEN).replace("exclave1_", "exclave2_")
    ),
    "[20 already-member] join once more": lambda host: (host.be_member(), host.join(encode_token(TOKEN)))[1],
    "[23 unreachable] join where no server listens": lambda host: (
        host.configure('[member]\naddress = "10.77.0.20"'),
        join_on_a_checked_host(host),
    )[1],
    "[23 unreachable] join from a machine without an address": join_on_a_checked_host,
    "[31 nft-unusable] cleanup without nftables": lambda host: host.run("cleanup"),
    "[31 nft-unusable] run without iproute2": lambda host: as_member(host, '[proxy]\nuser = "nobody"'),
    "[32 proxy-unusable] run without the proxy's user": lambda host: (
        host.has_tools(),
        as_member(host, '[proxy]\nuser = "nobody-here"'),
    )[1],
    "[32 proxy-unusable] run with the proxy as root": lambda host: (
        host.has_tools(),
        as_member(host, '[proxy]\nuser = "root"'),
    )[1],
    "[33 disk] join with a state folder that cannot be made": below_a_file,
    "[33 disk] leave with a damaged record": damaged,
    "[33 disk] leave with a file of a join that cannot be removed": with_a_file_that_stays,
    "[34 taken] run where somebody else has the link's name": lambda host: with_links(
        host, {"ifname": "exclave0", "address": "02:00:00:00:00:01"}
    ),
    "[34 taken] run where somebody else has an address of the link": lambda host: with_links(
        host, {"ifname": "eth0", "addr_info": [{"local": "169.254.77.2", "prefixlen": 32}]}
    ),
    "[35 another-agent] run twice": lambda host: where_another_agent_runs(host, "run"),
    "[35 another-agent] cleanup while an agent runs": lambda host: where_another_agent_runs(host, "cleanup"),
    "[35 another-agent] leave while an agent runs that does not answer": lambda host: (
        host.be_member(),
        where_another_agent_runs(host, "leave"),
    )[1],
    "[35 another-agent] join twice at once": where_another_join_runs,
    "[35 another-agent] leave while a join is under way": leaving_where_a_join_runs,
    "[36 package-missing] run without a Python package": with_patch(
        "exclave.kit.host.packages.find_spec", lambda name: name != "trio" or None, lambda host: host.run("run")
    ),
    "[37 other-mesh] run where Linkerd's rules for pods are left": with_rules_of_linkerd,
    "[38 tool-hangs] cleanup while nft hangs": with_patch(
        "exclave.kit.host.command.run_command", hang, lambda host: host.run("cleanup")
    ),
    "[39 download] proxy install from a registry that is not there": with_patch(
        "exclave.proxy_install.download.ATTEMPTS", 2, install_from_nowhere
    ),
    "[40 config-invalid] status with mistakes in config.toml": badly_configured,
}


@pytest.mark.parametrize("title", CASES)
def test_a_failure_has_its_code_its_text_and_a_hint(title: str, host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    code = CASES[title](host)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown_failure(shown.err, FOLDER=host.folder) == golden_failures()[title]
    assert title.startswith(f"[{code} ")


CHANGING = ["run", "join", "leave", "explain", "cleanup"]


@pytest.mark.parametrize("command", CHANGING)
def test_commands_that_change_the_machine_need_root(
    command: str, host: Host, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("sys.argv", ["exclave", command, "exclave1_secret"])
    assert host.run(command, *(["10.42.0.9:80"] if command == "explain" else [])) == 30
    title = f"[30 no-privilege] {command} as somebody else than root"
    assert shown_failure(capsys.readouterr().err) == golden_failures()[title]
    assert not host.state.exists()


def test_every_fault_is_in_the_golden_file() -> None:
    faults = {f"[{fault.code} {fault.word}]" for fault in Fault}
    assert {title.partition("]")[0] + "]" for title in golden_failures()} == faults


def test_every_golden_failure_has_a_test() -> None:
    here, beside = Path(__file__), Path(__file__).with_name("test_commands.py")
    tests = here.read_text() + beside.read_text()
    privileged = {f"[30 no-privilege] {command} as somebody else than root" for command in CHANGING}
    assert {title for title in golden_failures() if title not in tests} == privileged


def test_with_json_a_failure_is_one_object_and_nothing_else(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.join("nonsense", "--json") == 10
    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"] == {
        "code": 10,
        "word": "token-malformed",
        "message": "a line that begins with exclave1_ was expected, found 8 characters without it",
        "hint": "copy the whole line again, or ask the admin for a new one: kubectl exclave token create GROUP",
    }
    assert shown.err == ""


@pytest.mark.parametrize("arguments", [[], ["dance"], ["status", "--loud"], ["join", "--no-wait=1"]])
def test_a_wrong_command_line_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: exclave" in capsys.readouterr().err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"exclave {__version__}\n")


# What nobody foresaw.


class Group(Exception):
    def __init__(self, *inner: BaseException) -> None:
        super().__init__("")
        self.exceptions = inner


def failing(problem: BaseException) -> Callable[..., int]:
    def fail(*_: object, **__: object) -> int:
        raise problem

    return fail


def test_a_bug_is_1_and_the_exceptions_text_is_not_printed(
    host: Host, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exclave.control.client.query_agent", failing(ValueError("the token is exclave1_x")))
    assert host.run("status", "--json") == 1
    shown = capsys.readouterr()
    assert shown_failure(shown.err) == golden_failures()["[1 bug] something that nobody foresaw"]
    assert shown.err.startswith("builtins.ValueError\n  ")
    assert json.loads(shown.out)["error"]["word"] == "bug"
    assert "exclave1_x" not in shown.err + shown.out


def test_a_failure_inside_of_a_group_is_reported_as_itself(
    host: Host, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = ClusterError(Fault.NOT_PERMITTED, "you may not", "ask")
    monkeypatch.setattr("exclave.control.client.query_agent", failing(Group(ValueError(), Group(inner))))
    assert host.run("status") == 24
    assert capsys.readouterr().err == "exclave: you may not\n  to do: ask\n"


def test_an_interrupt_is_130(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exclave.control.client.query_agent", failing(KeyboardInterrupt()))
    assert host.run("status") == 130


def test_a_reader_that_has_closed_the_pipe_is_no_error() -> None:
    """As `exclave status | true` would: 141 is a broken pipe's exit code in a shell."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("print_status.py")],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=environment,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


# status.


IDLE = """\
state:       unjoined since 2027-01-15T08:00:00Z
to do:       nothing on this machine is changed; to join a mesh: exclave join
"""


def status(state: State, *, ready: bool = False) -> bytes:
    return json_lines(build_status("1", state, 1_800_000_000.0, {"listing": {"ready": ready}}, {}, {}, 0))


@pytest.mark.parametrize(
    ("answer", "code", "first"),
    [
        (status(State.READY, ready=True), 0, "state:       ready since 2027-01-15T08:00:00Z\n"),
        (status(State.PENDING), 3, "state:       pending since 2027-01-15T08:00:00Z\n"),
        (status(State.UNJOINED), 4, IDLE),
    ],
    ids=["ready", "not ready", "unjoined"],
)
def test_status_has_an_exit_code_for_scripts(
    answer: bytes, code: int, first: str, host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_replies(host.runtime, answer, answer) as asked:
        assert host.run("status") == code
        assert capsys.readouterr().out == first
        assert host.run("status", "--json") == code
    assert json.loads(capsys.readouterr().out) == json.loads(answer)
    assert asked == ["status", "status"]


def test_status_without_an_agent_is_5(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.run("status") == 5
    assert capsys.readouterr() == (
        "",
        "exclave: no agent runs on this machine\n  to do: start it: systemctl start exclave; or exclave run\n",
    )
    assert host.run("status", "--json") == 5
    assert json.loads(capsys.readouterr().out)["error"]["word"] == "no-agent"


def test_status_needs_no_root(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert host.run("status") == 5


# proxy swap.

STEPS = ({"step": "replacing the rules", "clients": None}, {"step": "replacing the rules", "clients": None})
SWAPPED = {"swapped": {"from": "a", "to": "b", "seconds": 1.25}}
FAILED = error_object(23, "unreachable", "the policies have not arrived", "see whether linkerd-destination runs")


@pytest.mark.parametrize(("option", "command"), [((), "swap"), (("--force",), "swap-forced")])
def test_a_swap_is_requested_and_its_progress_reported(
    option: tuple[str, ...], command: str, host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_replies(host.runtime, json_lines(*STEPS, SWAPPED), json_lines(*STEPS, SWAPPED)) as asked:
        assert host.run("proxy", "swap", *option) == 0
        assert capsys.readouterr() == (
            "",
            "replacing the rules\ntraffic moved from proxy a to proxy b in 1.2 s\n",
        )
        assert host.run("proxy", "swap", *option, "--json") == 0
        assert json.loads(capsys.readouterr().out) == SWAPPED
    assert asked == [command, command]


def test_a_failed_swap_ends_with_the_code_of_its_fault(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_replies(host.runtime, json_lines(*STEPS, FAILED), json_lines(FAILED)):
        assert host.run("proxy", "swap") == 23
        assert capsys.readouterr().err.splitlines()[1:] == [
            "exclave: the policies have not arrived",
            "  to do: see whether linkerd-destination runs",
        ]
        assert host.run("proxy", "swap", "--json") == 23
        assert json.loads(capsys.readouterr().out) == FAILED


def test_an_agent_too_old_for_swaps_is_an_error(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_replies(host.runtime, json_lines({"error": {"message": "no such command"}})):
        assert host.run("proxy", "swap") == 35
    assert capsys.readouterr().err.startswith(
        "exclave: the running agent is an older version, which cannot move traffic\n"
    )


def test_a_swap_without_an_agent_or_with_one_that_ends_meanwhile_is_5(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    assert host.run("proxy", "swap") == 5
    with fake_replies(host.runtime, json_lines(*STEPS)):
        assert host.run("proxy", "swap", "--json") == 5
    assert json.loads(capsys.readouterr().out)["error"]["word"] == "no-agent"


# cleanup and demo.


BROKEN: dict[str, Callable[[Host], None]] = {
    "it is no TOML": lambda host: (host.folder / "config.toml").write_text("[proxy\n") and None,
    "it is no text": lambda host: (host.folder / "config.toml").write_bytes(b"\xff") and None,
    "it is a folder": lambda host: ((host.folder / "config.toml").unlink(), (host.folder / "config.toml").mkdir())[1],
    "a value is wrong": lambda host: host.configure("[proxy]\nbinary = 7"),
}


@pytest.mark.parametrize("spoil", BROKEN.values(), ids=BROKEN)
def test_a_broken_configuration_does_not_stop_a_clean_up(
    spoil: Callable[[Host], None], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned: list[Any] = []
    monkeypatch.setattr(
        "exclave.cli.commands.clean_up_without_agent",
        lambda config, *, in_json: cleaned.append(config.paths.runtime) or 0,
    )
    spoil(host)
    assert host.run("cleanup") == 0
    assert cleaned == [host.runtime if spoil is BROKEN["a value is wrong"] else Paths().runtime]


def test_the_demo_parses_its_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exclave_sandbox.demo.main.main", lambda rest: 7 if rest == ["--json", "--fast"] else 0)
    assert cli.main(["demo", "--json", "--fast"]) == 7


ABSENT_PARTS = {
    "exclave_sandbox.demo": ("demo", "the demo is not installed", "run ./agent/demo in a checkout of exclave"),
    "exclave.admin": (
        "admin",
        "the admin's commands are not installed",
        "install the package exclave-admin, then run kubectl exclave",
    ),
    "exclave.controller": (
        "controller",
        "the controller is not installed",
        "it runs in the cluster, from its container image: kubectl exclave install",
    ),
}


@pytest.mark.parametrize("part", ABSENT_PARTS)
def test_a_part_that_the_package_leaves_out_is_named(
    part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if f"{name}.".startswith(f"{part}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, part, None)  # so an import of it fails
    command, message, hint = ABSENT_PARTS[part]
    assert cli.main([command]) == Fault.USAGE.code
    assert capsys.readouterr().err == f"exclave: {message}\n  to do: {hint}\n"


def test_the_api_server_of_a_pod_is_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert cli._server_of_pod() == "https://10.96.0.1:443"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    assert cli._server_of_pod() == "https://[fd00::1]:6443"
