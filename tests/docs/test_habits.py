"""The project's habits: the files at the top of the checkout, .github and the changelog."""

import re
import shutil
import subprocess

import pytest
import yaml

import exclave
from architecture.tree import TOP
from docs.markdown import Document
from support.needs import need

GITHUB = TOP / ".github"
CONTRIBUTING = Document((GITHUB / "CONTRIBUTING.md").read_text())


def test_the_top_has_a_few_names_only() -> None:
    need(shutil.which("git") is not None and (TOP / ".git").exists(), "this is no checkout of git")
    listed = subprocess.run(["git", "ls-files"], cwd=TOP, capture_output=True, text=True, check=True).stdout
    names = {name.partition("/")[0] for name in listed.splitlines()}
    allowed = {"agent", "packaging", "systemd", "tests", "pyproject.toml", "README.md", "LICENSE"}
    assert {name for name in names if not name.startswith(".")} <= allowed


@pytest.mark.parametrize("name", sorted(path.name for path in GITHUB.glob("*.md")))
def test_links_lead_somewhere(name: str) -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]*)\)", (GITHUB / name).read_text())
    assert [target for target in targets if not (GITHUB / target).exists()] == []


def test_every_way_to_run_tests_is_described() -> None:
    script = (TOP / "tests" / "run").read_text()
    options = set(re.findall(r"^(--\w+)\)", script, re.MULTILINE))
    described = set(re.findall(r"`\./tests/run (--\w+)", CONTRIBUTING.section("Run tests").text))
    head = set(re.findall(r"^#   \./tests/run (--\w+)", script, re.MULTILINE))
    assert options == described == head


def test_the_changelog_begins_with_this_version() -> None:
    first = re.search(r"^## (\S+)", (TOP / "agent/docs/changelog.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] == exclave.__version__


def test_before_a_commit_the_linters_of_the_tests_run() -> None:
    config = yaml.safe_load((TOP / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert {repository["repo"] for repository in config["repos"]} == {"local"}
    assert [hook["entry"].removeprefix(".venv/bin/python -m ") for hook in hooks] == [
        "ruff check",
        "ruff format --check",
        "mypy",
    ]


def test_ci_runs_what_everybody_can_run() -> None:
    steps = yaml.safe_load((GITHUB / "workflows/ci.yml").read_text())["jobs"]["tests"]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    assert len(commands) == 1
    assert commands[0].split()[-1] == ".ci/run"
    assert (TOP / ".ci/run").stat().st_mode & 0o100
