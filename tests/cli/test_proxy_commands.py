"""`exclave proxy install|list|use|remove`, with a program that greets as the proxy does."""

import json
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from exclave.api.settings import Settings, render_settings
from exclave.cli import main as cli
from exclave.cli.proxy_commands import install_missing_proxy
from exclave.config import Config, load_config
from exclave.errors import UsageError
from exclave.kit.host.files import make_folder
from exclave.member.record import store_settings
from exclave.proxy_install import install as module
from support.mesh import make_settings
from support.registry import Answer, Registry, proxy_image, run_registry, sha256

GREETING = "#!/bin/sh\necho 'INFO linkerd2_proxy: release {} (abc1234) by linkerd on 2026-08-01'\nexit 64\n"


def program(version: str) -> bytes:
    return GREETING.format(version).encode()


class Host:
    """A machine with folders of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.binary = folder / "lib" / "linkerd2-proxy"
        self.state = folder / "state"
        self.configure()

    def configure(self, *lines: str) -> None:
        """Write the configuration, with more lines about the proxy."""
        proxy = [f'binary = "{self.binary}"', f'store = "{self.folder / "proxies"}"', 'user = "nobody"', *lines]
        paths = [f'state = "{self.state}"', f'runtime = "{self.folder / "run"}"']
        (self.folder / "config.toml").write_text("\n".join(["[proxy]", *proxy, "[paths]", *paths, ""]))

    def config(self) -> Config:
        return load_config(self.folder / "config.toml")

    def run(self, *words: str) -> int:
        return cli.main(["proxy", *words, "--config", str(self.folder / "config.toml")])


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="exclave-") as name:
        Path(name).chmod(0o755)  # the proxy's user must pass
        yield Path(name)


@pytest.fixture
def host(folder: Path) -> Host:
    return Host(folder)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    with run_registry() as running:
        yield running


def test_an_image_is_installed_and_used(host: Host, registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    digest = proxy_image(registry, program("2.366.0"))
    assert host.run("install", registry.image()) == 0
    name = f"2.366.0-{sha256(program('2.366.0'))[:12]}"
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f"installed: {name}, from {registry.image()}@{digest}\n"
        f"in use: {name}; an agent that runs moves traffic to it in a few seconds\n"
    )
    assert host.binary.read_bytes() == program("2.366.0")


def test_a_mirror_is_read_in_place_of_the_named_registry(host: Host, registry: Registry) -> None:
    proxy_image(registry, program("2.366.0"))
    assert host.run("install", "cr.example.com/linkerd/proxy:v1", "--mirror", registry.host) == 0
    assert host.binary.read_bytes() == program("2.366.0")


def test_versions_are_listed_used_and_removed(host: Host, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for version in ("2.331.0", "2.366.0"):
        (folder / version).write_bytes(program(version))
        assert host.run("install", "--file", str(folder / version)) == 0
    assert host.run("use", "2.331.0") == 0
    assert host.binary.read_bytes() == program("2.331.0")
    capsys.readouterr()
    assert host.run("list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert {one["version"]: (one["used"], one["source"]) for one in listed} == {
        "2.331.0": (True, str(folder / "2.331.0")),
        "2.366.0": (False, str(folder / "2.366.0")),
    }
    assert host.run("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0].partition("-")[0]: "in use" in line for line in lines} == {
        "2.331.0": True,
        "2.366.0": False,
    }
    assert not any("\\x20" in line for line in lines)
    assert host.run("remove", "2.331.0") == 2
    assert "is in use" in capsys.readouterr().err
    assert host.run("remove", "2.366.0") == 0
    assert host.run("use", "2.366.0") == 2


def test_an_installation_without_use_changes_nothing_that_runs(host: Host, folder: Path) -> None:
    (folder / "proxy").write_bytes(program("2.366.0"))
    assert host.run("install", "--file", str(folder / "proxy"), "--no-use") == 0
    assert not host.binary.exists()


def test_a_program_that_was_copied_there_by_hand_is_taken_in(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.binary.parent.mkdir()
    host.binary.write_bytes(program("2.331.0"))
    assert host.run("list") == 0
    assert "which exclave proxy has not installed" in capsys.readouterr().err
    assert host.run("install", "--file", str(host.binary)) == 0
    assert host.binary.is_symlink()
    assert host.binary.read_bytes() == program("2.331.0")


REFUSED = {
    "no proxy": (b"#!/bin/sh\nexit 0\n", 32, "ended with status 0"),
    "of a version that cannot work": (program("2.329.0"), 32, "which asks the Workload API"),
    "for a newer C library": (
        b"#!/bin/sh\necho \"/lib/libc.so.6: version 'GLIBC_2.99' not found\" >&2\nexit 1\n", 32, "GLIBC_2.99",
    ),
    "for another machine": (b"\x7fELF\x02\x01\x01" + bytes(200), 32, "ended with status"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "code", "words"), REFUSED.values(), ids=REFUSED)
def test_a_program_that_cannot_work_here_is_refused(
    host: Host, folder: Path, capsys: pytest.CaptureFixture[str], content: bytes, code: int, words: str
) -> None:
    (folder / "proxy").write_bytes(content)
    assert host.run("install", "--file", str(folder / "proxy")) == code
    assert words in capsys.readouterr().err
    assert not host.binary.exists()
    assert list((folder / "proxies").iterdir()) == []


def settings_with(image: str, tag: str = "v1", digest: str = "") -> Settings:
    """Settings of a member whose cluster runs this image."""
    settings = make_settings()
    linkerd = replace(settings.linkerd, proxy_image=image, proxy_version=tag, proxy_digest=digest)
    return replace(settings, linkerd=linkerd)


def be_member(host: Host, settings: Settings) -> None:
    make_folder(host.state, 0o700)
    store_settings(host.state, render_settings(settings))


def test_a_member_installs_what_its_cluster_runs(
    host: Host, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = proxy_image(registry, program("2.366.0"))
    be_member(host, settings_with(f"{registry.host}/linkerd/proxy", "moved-away", digest))
    assert host.run("install") == 0
    assert f"from {registry.host}/linkerd/proxy:moved-away@{digest}\n" in capsys.readouterr().err
    assert host.binary.is_symlink()


def test_a_member_of_a_cluster_that_names_no_image_names_one(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    be_member(host, settings_with(""))
    assert host.run("install") == 2
    assert "one source was expected" in capsys.readouterr().err


def test_the_configuration_names_a_mirror_for_all_images(host: Host, registry: Registry) -> None:
    proxy_image(registry, program("2.366.0"))
    host.configure(f'mirror = "{registry.host}"')
    be_member(host, settings_with("cr.example.com/linkerd/proxy"))
    assert host.run("install") == 0
    assert host.binary.is_symlink()


def test_a_join_installs_the_tokens_image_where_there_is_no_proxy(
    host: Host, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy_image(registry, program("2.366.0"))
    install_missing_proxy(registry.image(), host.config())
    assert host.binary.read_bytes() == program("2.366.0")
    printed = capsys.readouterr().err.splitlines()
    assert printed == [
        f"this machine has no proxy yet; installing {registry.image()}",
        f"installed: 2.366.0-{sha256(program('2.366.0'))[:12]}",
    ]
    registry.requests.clear()
    install_missing_proxy(registry.image("linkerd/proxy:v2"), host.config())
    assert registry.requests == [], "there is one now, and a person chooses whether it is replaced"


def test_a_join_without_a_proxy_and_without_an_image_installs_nothing(host: Host) -> None:
    install_missing_proxy("", host.config())
    assert not host.binary.exists()


@pytest.mark.parametrize("text", ["--help", "proxy", "cr.example.com/proxy:v1 --file x", "x" * 10_000])
def test_an_image_of_a_token_that_is_no_image_is_refused(host: Host, text: str) -> None:
    with pytest.raises(UsageError, match=r"is no name of an image|names no registry"):
        install_missing_proxy(text, host.config())


def test_one_source_is_expected(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["cr.example.com/a:v1", "--file", "x"], ["--file", "x", "--url", "y"]):
        assert host.run("install", *words) == 2
        assert "one source was expected" in capsys.readouterr().err


def test_a_download_that_takes_too_long_ends(
    host: Host, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    is_over = threading.Event()

    def stall(_registry: Registry, _request: object, answer: Answer) -> Answer:
        is_over.wait(60)
        return answer

    registry.behave = stall
    try:
        assert host.run("install", registry.image(), "--timeout", "1s") == 39
    finally:
        is_over.set()
    assert "not complete within 1 s" in capsys.readouterr().err
