"""The admin's commands: names, help, exit codes, failures word for word, and completion."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from exclave import __version__
from exclave.admin import main
from exclave.admin.main import FILES, NO_FILES, build_parser, complete, complete_for_kubectl
from exclave.cli import main as cli
from peers.conftest import Server
from support.admin import KUBECTL, Admin, admin_of, write_program
from support.needs import need


@pytest.fixture
def nobody(server: Server, tmp_path: Path) -> Admin:
    """An admin of a server where nobody listens."""
    return admin_of(server, tmp_path / "nobody", server="https://127.0.0.1:1")


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("/usr/local/bin/kubectl-exclave", "kubectl exclave"),
        ("linkerd-exclave", "linkerd exclave"),
        ("/usr/bin/exclave", "exclave admin"),
    ],
)
def test_help_begins_with_the_name_of_the_program(admin: Admin, called: str, name: str) -> None:
    typed = Admin(admin.kubeconfig, called).type("--help")
    assert typed.code == 0
    assert typed.out.startswith(f"usage: {name} [-h]")
    assert "kubectl exclave token create web -n shop" in typed.out


def test_the_version_is_exclaves(admin: Admin) -> None:
    assert admin.type("--version") == (0, f"exclave {__version__}\n", "")


def test_every_verb_has_help_with_an_example(admin: Admin) -> None:
    for words in (
        ("group", "create"), ("group", "list"), ("group", "describe"), ("group", "delete"),
        ("token", "create"), ("token", "list"), ("token", "revoke"),
        ("member", "list"), ("member", "describe"), ("member", "evict"), ("member", "cordon"), ("member", "uncordon"),
        ("member", "renew"), ("completion",),
    ):  # fmt: skip
        typed = admin.type(*words, "--help")
        assert typed.code == 0
        assert "\nexamples:\n" in typed.out, words


def test_a_wrong_command_line_ends_with_2(admin: Admin) -> None:
    assert [admin.type(*words).code for words in ((), ("group",), ("bush",), ("member", "evict"))] == [2, 2, 2, 2]


def test_a_failure_is_two_lines_and_the_code_of_its_fault(nobody: Admin) -> None:
    typed = nobody.type("member", "list", "-n", "shop")
    assert (typed.code, typed.out) == (23, "")
    first, second = typed.err.splitlines()
    assert first.startswith(
        "exclave: kubectl was asked to list members in namespace shop and did not reach the API server: "
    )
    assert second.startswith("  to do: check the context")


def test_a_failure_in_json_is_one_object(nobody: Admin) -> None:
    typed = nobody.type("member", "list", "-n", "shop", "-o", "json")
    assert (typed.code, typed.err) == (23, "")
    assert json.loads(typed.out)["error"]["word"] == "unreachable"


def test_an_unknown_context_is_an_error(admin: Admin) -> None:
    typed = admin.type("member", "list", "-n", "shop", "--context", "nope")
    assert typed == (
        2,
        "",
        'exclave: kubectl does not find this cluster in the kubeconfig: context "nope" does not exist\n'
        "  to do: name a context of `kubectl config get-contexts` with --context, or a file with --kubeconfig\n",
    )


def test_a_missing_kubectl_is_two_lines(admin: Admin) -> None:
    typed = admin.type("member", "list", "-n", "shop", search="/nowhere")
    assert typed == (
        2,
        "",
        "exclave: the program kubectl was not found on the PATH\n"
        "  to do: install kubectl: https://kubernetes.io/docs/tasks/tools/\n",
    )


def test_an_unexpected_exception_is_a_bug_and_its_text_is_not_printed(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr("exclave.admin.kubectl.Kubectl.list", fail)
    typed = admin.type("member", "list", "-n", "shop")
    assert typed.code == 1
    assert "this is a bug in exclave" in typed.err
    assert "a secret" not in typed.err


def test_the_namespace_of_the_context_is_used(admin: Admin) -> None:
    config = json.loads(admin.kubeconfig.read_text())
    config["contexts"][0]["context"]["namespace"] = "shop"
    admin.kubeconfig.write_text(json.dumps(config))
    assert admin.type("member", "list").err == "no members in namespace shop\n"


def test_exclave_admin_is_another_name(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["exclave", "admin"])
    with pytest.raises(SystemExit) as ended:
        cli.main(["admin", "group", "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: exclave admin group [-h]")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_a_script_for_the_shell(admin: Admin, shell: str) -> None:
    typed = admin.type("completion", shell)
    assert typed.code == 0
    assert "kubectl-exclave" in typed.out
    assert "evict" in typed.out


def test_without_shtab_the_completion_names_its_package(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert admin.type("completion", "bash") == (
        2,
        "",
        "exclave: completion needs the Python library shtab\n"
        "  to do: apt install python3-shtab; on Fedora: dnf install python3-shtab; or pip install 'exclave[admin]'\n",
    )


def test_bash_completes_a_verb(admin: Admin, tmp_path: Path) -> None:
    (tmp_path / "script").write_text(admin.type("completion", "bash").out)
    ask = (
        f"source {tmp_path}/script; COMP_WORDS=(kubectl-exclave member ev); COMP_CWORD=2; "
        'eval "$(complete -p kubectl-exclave | sed "s/.*-F \\([^ ]*\\) .*/\\1/") kubectl-exclave ev member"; '
        'echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, env={**os.environ})
    assert done.stdout.split() == ["evict"], done.stderr


def test_the_parser_has_every_subject() -> None:
    options = build_parser("x").parse_args(["member", "evict", "a", "b", "-n", "shop"])
    assert (options.names, options.namespace) == (["a", "b"], "shop")


ROWS: dict[str, tuple[list[str], list[str], int]] = {
    "half a subject": (["me"], ["member"], NO_FILES),
    "a subject's verbs": (
        ["member", ""], ["cordon", "describe", "evict", "list", "renew", "uncordon"], NO_FILES,
    ),
    "half a verb": (["token", "cre"], ["create"], NO_FILES),
    "half an option of a verb": (
        ["group", "create", "web", "--pr"], ["--probe", "--proxy-cores"], NO_FILES,
    ),
    "an option's choices": (["member", "list", "-o", ""], ["json", "name", "wide", "yaml"], NO_FILES),
    "half a choice": (["group", "create", "web", "--capture", "c"], ["cluster"], NO_FILES),
    "an option with a file": (["token", "create", "web", "--ca-file", ""], [], FILES),
    "after an option and its value": (["-n", "shop", "rotation", ""], ["status"], NO_FILES),
    "a value that is named as a command": (["-n", "member", "tok"], ["token"], NO_FILES),
    "an option without a value": (["member", "list", "-A", "--gr"], ["--group"], NO_FILES),
    "a name, which is in the cluster only": (["member", "evict", "web-"], [], NO_FILES),
    "a command for Linkerd alone": (["_"], [], NO_FILES),
    "an option of no command": (["--nonsense", "memb"], ["member"], NO_FILES),
}  # fmt: skip


@pytest.mark.parametrize(("typed", "words", "directive"), ROWS.values(), ids=ROWS)
def test_half_a_word_is_completed(typed: list[str], words: list[str], directive: int) -> None:
    assert complete(build_parser("kubectl exclave"), typed) == (words, directive)


def test_nothing_typed_offers_every_subject() -> None:
    words, _ = complete(build_parser("kubectl exclave"), [])
    assert {"install", "group", "token", "member", "rotation", "check", "uninstall"} <= set(words)


def test_kubectl_gets_a_word_a_line_and_the_directive(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-exclave", "token", ""])
    assert complete_for_kubectl() == 0
    assert capsys.readouterr().out == "create\nlist\nrevoke\n:4\n"


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (["exclave", "rotation", ""], "status\n:4\n"),
        (["exclave", "member", "unc"], "uncordon\n:4\n"),
    ],
)
def test_kubectl_prints_the_completions_for_the_shell(typed: list[str], answer: str, tmp_path: Path) -> None:
    need(KUBECTL.is_file(), f"kubectl has not been built: {KUBECTL}")
    for name in ("kubectl-exclave", "kubectl_complete-exclave"):
        function = "main" if name == "kubectl-exclave" else "complete_for_kubectl"
        run_main = f"from exclave.admin.main import {function}; raise SystemExit({function}())"
        write_program(tmp_path / name, f'exec {shlex.quote(sys.executable)} -c "{run_main}" "$@"')
    agent = str(Path(main.__file__).parents[2])
    environment = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": agent}
    done = subprocess.run([KUBECTL, "__complete", *typed], capture_output=True, text=True, env=environment)
    assert done.stdout == answer, done.stderr
