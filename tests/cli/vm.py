"""A machine that types commands and changes nothing of this host."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exclave.api.join_token import JoinToken, encode_token
from exclave.cli import commands
from exclave.cli import main as cli
from exclave.kit.host.files import make_folder
from exclave.member.record import store_membership
from exclave_sandbox.stage.mesh import VM
from support.mesh import RECORD

RECORDING_PROGRAMS = Path(__file__).parents[1] / "support/recording_programs"
"""Programs `nft` and `ip` that only append their calls to the file `trace` beside their folder."""


class Vm:
    """A machine that may join: `run` types a command; programs that would change the host are not to be found."""

    def __init__(self, folder: Path, name: str = "vm", address: str = VM) -> None:
        self.state, self.runtime, self.trace = folder / name, folder / f"{name}-run", folder / f"{name}.trace"
        self._config = folder / f"{name}.toml"
        self._config.write_text(
            f'[paths]\nstate = "{self.state}"\nruntime = "{self.runtime}"\n'
            f'[member]\naddress = "{address}"\n[listing]\ndrain = "0s"\n'
        )

    def run(self, command: str, *arguments: str) -> int:
        return cli.main([command, *arguments, "--config", str(self._config)])

    def be_member(self) -> None:
        make_folder(self.state, 0o700)
        store_membership(self.state, RECORD)

    def join(self, token: JoinToken, *arguments: str) -> int:
        return self.run("join", encode_token(token), *arguments)


@contextmanager
def isolated_folder() -> Iterator[Path]:
    """A folder with the programs, for machines that look like root and whose host was checked already."""
    with tempfile.TemporaryDirectory() as made, pytest.MonkeyPatch.context() as patched:  # a socket's path is short
        programs = Path(made, "bin")
        shutil.copytree(RECORDING_PROGRAMS, programs)
        patched.setenv("PATH", f"{programs}:/usr/bin:/bin")
        patched.setattr("os.geteuid", lambda: 0)
        patched.setattr(commands, "UNIT", "exclave-of-a-test.service")
        patched.setattr(commands, "_check", lambda token, config: None)
        yield Path(made)
