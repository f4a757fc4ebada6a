"""The Ansible collection: lint, versions, variables, and what its modules decide. tests/vm has the plays."""

import importlib.util
import json
import os
import re
import shutil
import string
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tomllib
import yaml
from hypothesis import given
from hypothesis import strategies as st

import exclave
from architecture.tree import TOP
from exclave.cli.status_text import exit_code
from exclave.config import parse_config
from support.needs import need

COLLECTION = TOP / "packaging/ansible"
ROLE = COLLECTION / "roles/exclave"
PROGRAMS = TOP / ".venv-ansible/bin"


def load(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, COLLECTION / f"plugins/module_utils/{name}.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


program = load("exclave_program")


def read(path: str) -> Any:
    return yaml.safe_load((COLLECTION / path).read_text())


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """For Ansible's programs: the collection where they look for it, and the `exclave` of this checkout."""
    need(PROGRAMS.is_dir(), "there is no Ansible; ./tests/run makes its environment")
    place = tmp_path / "collections/ansible_collections/exclave"
    place.mkdir(parents=True)
    shutil.copytree(COLLECTION, place / "mesh")
    return {
        "PATH": f"{PROGRAMS}:{TOP}/.venv/bin:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections"),
        "ANSIBLE_LOCALHOST_WARNING": "False",
    }


@pytest.mark.slow
def test_ansible_lint_finds_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    where = tmp_path / "collections/ansible_collections/exclave/mesh"
    done = subprocess.run(
        ["ansible-lint", "--offline", "--strict", "--profile=production", "--nocolor"],
        cwd=where, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_collection_has_the_version_of_exclave() -> None:
    assert read("galaxy.yml")["version"] == exclave.__version__


def test_every_variable_is_described_with_its_default() -> None:
    options = read("roles/exclave/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    defaults = {name: option["default"] for name, option in options.items() if "default" in option}
    assert read("roles/exclave/defaults/main.yml") == defaults
    assert {name for name, option in options.items() if not {"description", "type"} <= option.keys()} == set()
    used = {word for path in ROLE.rglob("*.yml") for word in re.findall(r"\bexclave_[a-z_]+", path.read_text())}
    assert set(options) <= used


def test_a_task_that_has_a_token_hides_it() -> None:
    spec = read("roles/exclave/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert spec["exclave_token"]["no_log"] is True
    tasks = {task["name"]: task for task in read("roles/exclave/tasks/join.yml")}
    assert tasks["Create a join token on the control host"]["no_log"] is True
    assert '"token": {"type": "str", "no_log": True}' in (COLLECTION / "plugins/modules/exclave_member.py").read_text()


def status(
    state: str, reason: str | None, *, ready: bool = False, passing: bool = False, **more: Any
) -> dict[str, Any]:
    probe = {"kind": "tcp", "port": 8080, "passing": passing, "message": ""}
    listing = {"ready": ready, "reason": reason, "probes": [probe]}
    return {"state": state, "listing": listing, "problems": [], "waiting": [], **more}


OUTCOMES: dict[str, tuple[dict[str, Any], str, str]] = {
    "ready": (status("ready", None, ready=True, passing=True), "ready", ""),
    "ready with a refused credential": (status("orphaned", None, ready=True, passing=True), "ready", ""),
    "no application": (status("pending", "tcp 8080: refused"), "no-application", "tcp 8080: refused"),
    "another reason": (status("pending", "no port is listed yet"), "not-ready", "no port is listed yet"),
    "a probe that fails while something else is missing": (
        status("starting", "tcp 8080: refused"), "not-ready", "tcp 8080: refused",
    ),
    "a problem": (
        status("pending", "x", problems=[{"message": "the firewall blocks"}]), "not-ready", "the firewall blocks",
    ),
    "a wait": (status("starting", None, waiting=[{"for": "a certificate"}]), "not-ready", "waiting for a certificate"),
    "no reason": (status("failing", None), "not-ready", "the state is failing"),
    "no agent": ({}, "not-ready", "no agent runs on this machine; start it: systemctl start exclave"),
}  # fmt: skip


@pytest.mark.parametrize(("found", "outcome", "reason"), OUTCOMES.values(), ids=OUTCOMES)
def test_a_status_has_an_outcome(found: dict[str, Any], outcome: str, reason: str) -> None:
    assert program.outcome_of(found) == (outcome, reason)
    if found:  # `exclave status` agrees
        assert (exit_code(found) == 0) == (outcome == "ready")


@pytest.mark.parametrize("text", ["", "no JSON", "[1]", '"text"', "null"])
def test_what_is_no_object_counts_as_no_answer(text: str) -> None:
    assert program.parse_object(text) == {}


def test_a_member_has_a_namespace_and_a_group() -> None:
    assert program.group_of("shop/web-of-old-k7q2x-12") == ("shop", "web-of-old")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NAMES = st.text(string.ascii_letters + string.digits + ' ._-ü"\\', min_size=1)
PLAIN = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), TEXTS)


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, PLAIN | st.lists(PLAIN))))
def test_settings_are_the_same_in_toml(settings: dict[str, Any]) -> None:
    assert tomllib.loads(program.toml_text(settings)) == settings


def test_a_key_without_a_value_is_left_out() -> None:
    text = program.toml_text({"member": {"zone": None, "address": "10.0.0.5"}})
    assert parse_config(text, "x").member.address == "10.0.0.5"
    assert "zone" not in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"member": 1}, "member: a table of keys was expected, found 1"),
        ({"member": {"zone": {}}}, "member.zone: a text, a number, true, false or a list was expected, found {}"),
        ({"member": {"zone": [None]}}, "member.zone: a text, a number, true, false or a list was expected, found None"),
    ],
)
def test_other_types_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        program.toml_text(settings)
    assert str(refused.value) == message


PLAY = """
- hosts: localhost
  gather_facts: false
  tasks:
    - exclave.mesh.exclave_config:
        path: "{{ path }}"
        reload: false
        settings: "{{ settings }}"
"""


@pytest.mark.slow
def test_settings_are_written_only_if_exclave_accepts_them(environment: dict[str, str], tmp_path: Path) -> None:
    file, play = tmp_path / "etc/config.toml", tmp_path / "play.yml"
    play.write_text(PLAY)
    words = ["ansible-playbook", "--inventory=localhost,", "--connection=local", "--diff", str(play)]

    def run(settings: dict[str, Any], *options: str) -> tuple[int, str]:
        values = {"path": str(file), "settings": settings, "ansible_python_interpreter": "/usr/bin/python3"}
        done = subprocess.run(
            [*words, *options, "--extra-vars", json.dumps(values)], env=environment, capture_output=True, text=True
        )
        return done.returncode, done.stdout + done.stderr

    right = {"redirect": {"exclude_inbound_ports": [9100, "8000-8100"]}}
    code, output = run(right, "--check")
    assert code == 0, output
    assert '+exclude_inbound_ports = [9100, "8000-8100"]' in output
    assert not file.exists()
    code, output = run(right)
    assert code == 0, output
    assert "changed=1" in output
    written = file.read_text()
    assert parse_config(written, "x").redirect.exclude_inbound_ports == (9100, (8000, 8100))
    code, output = run(right)
    assert (code, "changed=0" in output) == (0, True), output
    for options in (("--check",), ()):
        code, output = run({"member": {"zone": "?", "zones": 1}}, *options)
        assert code == 2
        assert f"{file}:" in output
        assert "member.zones: no such key" in output
        assert "member.zone: a label's value such as eu-1a was expected, found '?'" in output
        assert file.read_text() == written
