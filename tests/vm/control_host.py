"""A control host with Ansible, which reaches booted machines over ssh, and as an admin the API server of the stage.

Ansible has an environment of its own, which `./tests/run --vm` makes.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from exclave.kit.host.command import run_command
from exclave.kit.tasks.nursery import shielded
from exclave_sandbox.stage.kubernetes import kubeconfig
from exclave_sandbox.stage.stage import DemoStage
from peers.kubernetes import RELEASES, cache
from support.needs import need
from vm.lab import HERE, Installed, Lab, Packages, furnish, open_lab
from vm.machine import LIMIT, BootedMachine
from vm.roots import cache_folder, layers_of, reachable_layer

TOP = Path(__file__).resolve().parents[2]
ANSIBLE = TOP / ".venv-ansible/bin"
COLLECTION = TOP / "packaging/ansible"

PROGRAMS = cache() / RELEASES["1.37"]
"""Where ./tests/run builds kubectl."""

PLAY_TIME = 900.0  # seconds for one playbook, on a very busy host

WITH_FACTS = "with_facts.yml"
"""The playbook roll_out, and then all facts and variables of each host."""

_WITH_FACTS = """
- import_playbook: exclave.mesh.roll_out
- hosts: all
  gather_facts: true
  tasks:
    - ansible.builtin.debug:
        var: hostvars[inventory_hostname]
"""

SETTINGS = {"proxy": {"drain": "5s"}, "listing": {"drain": "2s"}}
"""Short waits."""


@dataclass(frozen=True)
class Played:
    """How a playbook ended. `output`: all that Ansible printed, with -vvv; `results`: what callbacks got."""

    code: int
    seconds: float
    output: str
    results: list[dict[str, Any]]

    def changed(self, host: str) -> list[str]:
        """The tasks that changed something on this host, or would."""
        return [one["task"].split(" : ")[-1] for one in self.results if one["host"] == host and one["changed"]]

    def failure(self, host: str) -> str:
        """The last failure of this host."""
        found = [one["result"]["msg"] for one in self.results if one["host"] == host and one["outcome"] == "failed"]
        return str(found[-1])

    def hosts(self) -> set[str]:
        """The hosts on which a task ran."""
        return {one["host"] for one in self.results}


@dataclass
class ControlHost:
    """The control host. `folder` has its key, inventory, kubeconfig and collections."""

    folder: Path
    machines: Sequence[BootedMachine]

    async def play(self, playbook: str, *options: str, **variables: Any) -> Played:
        """Run one of the collection's playbooks, or a file, with variables of the role `exclave`."""
        record = self.folder / "record"
        record.unlink(missing_ok=True)
        values = {f"exclave_{name}": value for name, value in variables.items()}
        extra = self.folder / "variables.json"
        extra.write_text(json.dumps({"exclave_hosts": "all", **values}))
        name = str(self.folder / playbook) if playbook.endswith(".yml") else f"exclave.mesh.{playbook}"
        words = [str(ANSIBLE / "ansible-playbook"), name, "-vvv", f"--extra-vars=@{extra}"]
        began = time.monotonic()
        done = await run_command([*words, *options], environment=self._environment(), timeout=PLAY_TIME)
        seconds = time.monotonic() - began
        lines = record.read_text().splitlines() if record.exists() else []
        played = Played(done.status, seconds, done.output.decode() + done.errors, [json.loads(one) for one in lines])
        (self.folder / "last.log").write_text(played.output)
        return played

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{ANSIBLE}:{PROGRAMS}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "KUBECONFIG": str(self.folder / "kubeconfig"),
            "ANSIBLE_INVENTORY": str(self.folder / "inventory.json"),
            "ANSIBLE_COLLECTIONS_PATH": str(self.folder / "collections"),
            "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callbacks"),
            "ANSIBLE_CALLBACKS_ENABLED": "record",
            "ANSIBLE_LOG_PATH": str(self.folder / "ansible.log"),
            "ANSIBLE_HOST_KEY_CHECKING": "False",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder / "cp"),
            "ANSIBLE_NOCOLOR": "1",
            "EXCLAVE_RECORD": str(self.folder / "record"),
        }

    async def close(self) -> None:
        """End the ssh connections that Ansible leaves open."""
        for socket in (self.folder / "cp").glob("*"):
            await run_command(["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "any"])


def _make_folder(folder: Path, stage: DemoStage, machines: Sequence[BootedMachine]) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
    config = folder / "kubeconfig"
    config.write_text(json.dumps(kubeconfig(stage.access.servers[0], stage.access.ca, stage.api.admin_token)))
    shared = {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(folder / "key"),
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    hosts = {machine.name: {"ansible_host": machine.address} for machine in machines}
    (folder / "inventory.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": shared}}))
    (folder / WITH_FACTS).write_text(_WITH_FACTS)
    collections = folder / "collections/ansible_collections/exclave"
    collections.mkdir(parents=True)
    shutil.copytree(COLLECTION, collections / "mesh")


@asynccontextmanager
async def open_control_host(
    debian: str, packages: Packages, machines: int = 3
) -> AsyncIterator[tuple[Lab, ControlHost]]:
    """A stage, and booted machines without exclave that a control host reaches. Each has an application."""
    need((ANSIBLE / "ansible-playbook").exists(), "there is no Ansible; ./tests/run --vm makes its environment")
    need(shutil.which("ssh") is not None, "Ansible needs ssh (openssh-client)")
    need((PROGRAMS / "kubectl").is_file(), f"kubectl has not been built into {PROGRAMS}; ./tests/run builds it")
    layers = layers_of(debian, packages.new, cache_folder())
    reachable = reachable_layer(layers, cache_folder())
    need(reachable.is_dir(), f"there is no root of Debian {debian} for Ansible; ./tests/run --vm makes it")
    bare = Installed(debian, layers, packages, [reachable, layers.archives, layers.system])
    async with open_lab(bare) as lab, AsyncExitStack() as stack:
        booted = [await stack.enter_async_context(lab.open_machine(number)) for number in range(1, machines + 1)]
        # The sockets of ssh have long names, and the kernel's limit is 108 characters for a path.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="control")))
        _make_folder(folder, lab.stage, booted)
        async with trio.open_nursery() as nursery:
            for machine in booted:
                nursery.start_soon(_start, machine, (folder / "key.pub").read_text())
        control = ControlHost(folder, booted)
        try:
            yield lab, control
        except BaseException:
            log = folder / "last.log"
            sys.stderr.write(f"== the last play\n{log.read_text()[-20000:] if log.exists() else ''}\n")
            raise
        finally:
            with shielded(LIMIT):
                await control.close()


async def _start(machine: BootedMachine, public_key: str) -> None:
    """Boot it, with an application, a proxy's binary, and the control host's key."""
    furnish(machine)
    (machine.root / "etc/exclave/config.toml").unlink()  # the package brings its own
    machine.write("/root/.ssh/authorized_keys", public_key, 0o600)
    await machine.boot()
    await machine.shell("systemctl --quiet enable --now application.service")
