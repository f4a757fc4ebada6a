"""The demo's stage: a cluster with Linkerd, a meshed pod, and a VM, each a machine of namespaces.

The process that opens the stage is the cluster's machine, in a network namespace of its own. The pod has a stand-in
proxy and the rules of Linkerd's init container, the VM an application and nothing else.
"""

import json
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cryptography
import h2
import h11
import trio
from cryptography import x509

import exclave
from exclave.admin.objects import controller_objects, group_objects, guard_manifests
from exclave.api.identity import MeshIdentity
from exclave.api.names import CONTROLLER
from exclave.api.requests import Request, create, create_token
from exclave.cluster.client import Cluster, open_cluster
from exclave.cluster.endpoint import Access
from exclave.control.client import NoAgent, query_agent
from exclave.errors import ApiRefusal
from exclave.kit.host.command import Finished, run_command
from exclave.kit.host.files import write_atomic
from exclave.kit.tasks.nursery import shielded
from exclave_sandbox.apiserver.main import ApiServer, open_apiserver
from exclave_sandbox.expect import SUBJECTS, UnexpectedError, eventually
from exclave_sandbox.linkerd.release import LinkerdBinaries
from exclave_sandbox.pki import Authority, make_anchor, make_issuer, make_leaf
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.kubernetes import Binaries, Kubernetes, Layout, open_kubernetes
from exclave_sandbox.stage.namespaces import Machine, Network, open_network
from exclave_sandbox.stage.programs import GOODBYE, StageProgram, module, open_program, start
from exclave_sandbox.stage.real_linkerd import PROXY_USER, Pod, install_linkerd

_CONFIG = """\
[paths]
state = "{folder}/var/lib/exclave"
runtime = "{folder}/run/exclave"

[proxy]
binary = "{proxy}"
user = "nobody"
drain = "5s"

[listing]
drain = "2s"
"""


@dataclass
class VirtualMachine:
    """The VM. `folder` has the agent's parts of a file system."""

    machine: Machine
    folder: Path
    agent: StageProgram | None = None

    @property
    def config(self) -> Path:
        """Its config.toml."""
        return self.folder / "etc/exclave/config.toml"

    @property
    def runtime(self) -> Path:
        """Its /run/exclave."""
        return self.folder / "run/exclave"

    def start_agent(self) -> StageProgram:
        """Start the agent."""
        command = self.machine.command(*module("exclave", "run", "--config", str(self.config)))
        self.agent = start(command, self.folder.parent / "agent.log")
        return self.agent

    async def kill_agent(self) -> None:
        """End the agent by SIGKILL, as a crash would."""
        assert self.agent is not None
        self.agent.send(signal.SIGKILL)
        await self.agent.wait()

    async def command(self, *arguments: str, stdin: bytes = b"", timeout: float = 60.0) -> Finished:
        """Run an exclave command on the machine."""
        command = module("exclave", *arguments, "--config", str(self.config))
        return await self.machine.run(*command, stdin=stdin, timeout=timeout)

    async def status(self) -> dict[str, Any]:
        """The agent's status; empty while no agent answers."""
        try:
            return await trio.to_thread.run_sync(query_agent, self.runtime, "status")
        except NoAgent:
            return {}

    async def wait_idle(self) -> None:
        """Wait until the agent answers."""
        await eventually("the agent's answer", self.status, bool)

    async def active_proxy(self) -> dict[str, Any]:
        """State and process of the proxy that the rules point to."""
        proxy = (await self.status())["proxy"]
        found: dict[str, Any] = proxy["instances"][proxy["active"]]
        return found

    def agent_log_tail(self) -> str:
        """The end of the agent's log."""
        return self.agent.log_tail() if self.agent is not None else ""

    async def snapshot(self) -> dict[str, str]:
        """A snapshot: rules, links, addresses, routes, files."""
        found = {subject: (await self.machine.must(*command)).decode() for subject, command in SUBJECTS.items()}
        listing = ["find", str(self.folder), "-printf", "%P %M %u:%g %s\\n"]
        lines = (await self.machine.must(*listing)).decode().splitlines()
        found["files"] = "\n".join(sorted(line for line in lines if not line.startswith(("run/exclave ", " "))))
        return found


async def read_url(machine: Machine | None, url: str) -> bytes:
    """The body at a URL, read on a machine or on this one (None) by a plain HTTP client."""
    ask = "import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1], timeout=5).read())"
    command = [sys.executable, "-I", "-c", ask, url]
    done = await run_command(command if machine is None else machine.command(*command))
    if done.status != 0:
        raise UnexpectedError(f"{url}: {done.errors.splitlines()[-1]}")
    return done.output


async def fetch(machine: Machine | None, url: str) -> dict[str, Any]:
    """The JSON that the application at a URL answers to a machine."""
    answer: dict[str, Any] = json.loads(await read_url(machine, url))
    return answer


@asynccontextmanager
async def open_virtual_machine(
    network: Network, machine: Machine, proxy: Path, name: str = "vm"
) -> AsyncIterator[VirtualMachine]:
    """Set up the machine, with its application and `proxy` as the proxy's binary. `name`: of its files."""
    folder = network.scratch / name
    for part in ("etc/exclave", "var/lib", "run"):
        (folder / part).mkdir(parents=True)
    guest = VirtualMachine(machine, folder)
    guest.config.write_text(_CONFIG.format(folder=folder, proxy=proxy))
    echo = machine.command(*module("exclave_sandbox.stage.echo", mesh.GROUP, str(mesh.GROUP_PORT)))
    async with open_program(echo, network.scratch / f"{name}-app.log"):
        try:
            yield guest
        finally:
            if guest.agent is not None:
                with shielded(GOODBYE):
                    await guest.kill_agent()  # its machine goes with it, so there is nothing to walk back from


CLUSTER = "10.77.0.1"
API_PORT = 6443
ETCD_PORTS = 2379, 2380
# The DNS form alone is in a pod's certificate, as linkerd-identity signs it.
POD_IDENTITY = MeshIdentity(mesh.POD_NAME, mesh.NAMESPACE, mesh.LINKERD, mesh.TRUST_DOMAIN).dns_name
_PACKAGES = (exclave, trio, h2, h11, cryptography)

POD_RULES = f"""
table ip linkerd {{
    chain inbound {{
        type nat hook prerouting priority -100; policy accept;
        tcp dport != {{ 4140, 4143, 4191 }} redirect to :4143
    }}
    chain outbound {{
        type nat hook output priority -100; policy accept;
        meta skuid {PROXY_USER} accept
        oifname "lo" accept
        meta l4proto tcp redirect to :4140
    }}
}}
"""
"""The rules of Linkerd's init container, in nftables."""


@dataclass
class DemoStage:
    """The machines and their programs. `admin` may do everything in the cluster."""

    network: Network
    api: ApiServer | Kubernetes
    access: Access
    admin: Cluster
    pod: Machine
    vm: VirtualMachine
    controller: StageProgram
    linkerd: Mapping[str, StageProgram]
    """The real Linkerd's destination and policy controllers and their proxy, by name; empty with the stand-in."""
    pod_proxy: StageProgram | None = None
    """The pod's proxy, if it is the real one."""

    @property
    def scratch(self) -> Path:
        """The folder of logs and files."""
        return self.network.scratch

    def start_controller(self) -> None:
        """Start the controller again."""
        self.controller = _start_controller(self.scratch)

    def restart_ended(self) -> None:
        """Start what has ended of the real Linkerd, as a kubelet does: its policy controller ends without its lease."""
        for program in self.linkerd.values():
            if program.started.poll() is not None:
                program.start()

    def open_client(self, token: str) -> AbstractAsyncContextManager[Cluster]:
        """A client of the API server with this token."""
        return open_cluster(self.access, lambda: token)


@asynccontextmanager
async def open_stage(
    certificate_lifetime: str, binaries: Binaries | None = None, release: LinkerdBinaries | None = None
) -> AsyncIterator[DemoStage]:
    """Build all of it. Raises MachineError, HostError, UnexpectedError.

    `binaries`: run this real Kubernetes; `release`: on it, run this real Linkerd.
    """
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        network = await enter(open_network())
        await network.join(f"{CLUSTER}/24", f"{mesh.CONTROL_PLANE}/16")
        api = await enter(_open_api(network.scratch, binaries))
        access = Access((api.url,), api.ca)
        admin = await enter(open_cluster(access, lambda: api.admin_token))
        anchor = make_anchor()
        installed = None
        if release is not None:
            where = (CLUSTER, API_PORT)
            installed = await install_linkerd(release, network.scratch, where, api.ca, anchor, make_issuer(anchor))
        issuer = await _furnish(admin, network.scratch, certificate_lifetime, anchor)
        pod = await network.add("orders", f"{mesh.POD}/16")
        machine = await network.add("vm", f"{mesh.VM}/24")
        proxy = await share_stand_in(network.scratch, pod, machine)
        await _open_pod_application(pod, network.scratch, stack)
        linkerd: Mapping[str, StageProgram] = {}
        pod_proxy = None
        if installed is None:
            _make_pod_identity(network.scratch / "pod", anchor, issuer)
            await _open_destination(network.scratch, stack)
            await _open_stand_in_proxy(pod, network.scratch, stack)
        else:
            proxy = Path(shutil.copy(installed.binaries.proxy, network.scratch / "linkerd2-proxy"))
            linkerd = await enter(installed.open_control_plane())
            pod_proxy = await enter(
                installed.open_proxy(Pod(mesh.NAMESPACE, mesh.POD_NAME, mesh.POD_NAME, mesh.POD, pod))
            )
        await pod.must("nft", POD_RULES)
        for cluster_network in mesh.CLUSTER_NETWORKS:
            await machine.add_route(cluster_network)
        guest = await enter(open_virtual_machine(network, machine, proxy))
        controller = _start_controller(network.scratch)
        stage = DemoStage(network, api, access, admin, pod, guest, controller, linkerd, pod_proxy)
        stack.push_async_callback(_end_controller, stage)
        yield stage


def _open_api(scratch: Path, binaries: Binaries | None) -> AbstractAsyncContextManager[ApiServer | Kubernetes]:
    if binaries is None:
        return open_apiserver(CLUSTER, API_PORT, scratch)
    return open_kubernetes(binaries, Layout(scratch, CLUSTER, API_PORT, *ETCD_PORTS))


async def _furnish(admin: Cluster, scratch: Path, certificate_lifetime: str, anchor: Authority) -> Authority:
    """Linkerd's objects, the controller's rights, a group, and an application with one pod; exclave's issuer."""
    issuer = make_issuer(anchor)
    placed = [
        *guard_manifests("exclave"),
        *controller_objects("exclave", mesh.LINKERD, "exclave-issuer"),
        *group_objects(mesh.NAMESPACE, mesh.GROUP, mesh.group_spec(certificate_lifetime), "exclave"),
    ]
    for request in (
        *mesh.mesh_requests(anchor.pem, issuer.pem, issuer.key_pem),
        *(create(one.resource, one.namespace, one.body) for one in placed),
        *mesh.application_requests(),
    ):
        await _create(admin, request)
    granted = await admin.send(create_token("exclave", CONTROLLER, 86400))
    write_atomic(scratch / "controller.token", granted["status"]["token"].encode())
    return issuer


async def _create(admin: Cluster, request: Request) -> None:
    try:
        await admin.send(request)
    except ApiRefusal as refusal:
        if refusal.reason != "AlreadyExists":
            raise


async def _open_destination(scratch: Path, stack: AsyncExitStack) -> None:
    listen = ("--listen", f"{mesh.CONTROL_PLANE}:8086", "--listen", f"{mesh.CONTROL_PLANE}:8090")
    command = module("exclave_sandbox.linkerd.destination", *listen, *_access(scratch, "admin.token"))
    await stack.enter_async_context(open_program(command, scratch / "destination.log", in_machine=False))


async def _open_pod_application(pod: Machine, scratch: Path, stack: AsyncExitStack) -> None:
    for network in (mesh.VM_NETWORK, mesh.CLUSTER_NETWORKS[1]):
        await pod.add_route(network)
    echo = pod.command(*module("exclave_sandbox.stage.echo", mesh.POD_NAME, str(mesh.POD_PORT)))
    await stack.enter_async_context(open_program(echo, scratch / "pod-app.log"))


async def _open_stand_in_proxy(pod: Machine, scratch: Path, stack: AsyncExitStack) -> None:
    user = [f"--reuid={PROXY_USER}", f"--regid={PROXY_USER}", "--clear-groups"]
    proxy = pod.command("setpriv", *user, str(scratch / "proxy"))
    environment = _pod_environment(scratch / "pod")
    await stack.enter_async_context(open_program(proxy, scratch / "pod-proxy.log", environment=environment))


def _make_pod_identity(folder: Path, anchor: Authority, issuer: Authority) -> None:
    folder.mkdir()
    leaf = make_leaf(issuer, [x509.DNSName(POD_IDENTITY)])
    for name, text in (("key.pem", leaf.key_pem), ("chain.pem", leaf.pem + issuer.pem), ("anchors.pem", anchor.pem)):
        (folder / name).write_text(text)
        shutil.chown(folder / name, PROXY_USER, PROXY_USER)
        (folder / name).chmod(0o400)


def _pod_environment(folder: Path) -> dict[str, str]:
    prefix = "LINKERD2_PROXY_"
    return {
        "EXCLAVE_STANDIN_IDENTITY_DIR": str(folder),
        f"{prefix}IDENTITY_LOCAL_NAME": POD_IDENTITY,
        f"{prefix}IDENTITY_TRUST_ANCHORS": (folder / "anchors.pem").read_text(),
        f"{prefix}DESTINATION_SVC_ADDR": f"{mesh.CONTROL_PLANE}:8086",
        f"{prefix}POLICY_SVC_ADDR": f"{mesh.CONTROL_PLANE}:8090",
        f"{prefix}DESTINATION_PROFILE_NETWORKS": ",".join((*mesh.CLUSTER_NETWORKS, mesh.VM_NETWORK)),
        f"{prefix}POLICY_CLUSTER_NETWORKS": ",".join(mesh.CLUSTER_NETWORKS),
        f"{prefix}INBOUND_IPS": mesh.POD,
        f"{prefix}INBOUND_LISTEN_ADDR": "0.0.0.0:4143",
        f"{prefix}OUTBOUND_LISTEN_ADDRS": "127.0.0.1:4140",
        f"{prefix}ADMIN_LISTEN_ADDR": "0.0.0.0:4191",
    }


async def share_stand_in(scratch: Path, *machines: Machine) -> Path:
    """Make the stand-in proxy executable for any user of the machines, wherever this checkout is; its path."""
    folders = sorted({Path(package.__file__ or "").resolve().parents[1] for package in _PACKAGES})
    shared = [scratch / f"packages-{number}" for number in range(len(folders))]
    for target in shared:
        target.mkdir()
    for machine in machines:
        for source, target in zip(folders, shared, strict=True):
            await machine.share(source, target)
    interpreter = Path(sys.executable).resolve()
    wrapper = scratch / "proxy"
    wrapper.write_text(
        f"#!{interpreter} -I\nimport sys\nsys.path[:0] = {[str(path) for path in shared]!r}\n"
        "from exclave_sandbox.standin.main import main\nsys.exit(main())\n"
    )
    wrapper.chmod(0o755)
    return wrapper


def _access(scratch: Path, token_file: str) -> list[str]:
    server = f"https://{CLUSTER}:{API_PORT}"
    return ["--server", server, "--ca-file", str(scratch / "ca.pem"), "--token-file", str(scratch / token_file)]


def _start_controller(scratch: Path) -> StageProgram:
    command = module("exclave", "controller", *_access(scratch, "controller.token"))
    return start(command, scratch / "controller.log", in_machine=False)


async def _end_controller(stage: DemoStage) -> None:
    with shielded(2 * GOODBYE):
        await stage.controller.end()
