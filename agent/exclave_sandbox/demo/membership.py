"""The scenes of a VM that joins the mesh and leaves it, as the cluster and the kernel show it.

Rules of all scenes: a step checks the API server, the kernel and the pod, and asks the agent only for what those do not
show. It returns the figures that it measured, or raises UnexpectedError.
"""

import json
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.admin.objects import join_account
from exclave.api import requests as api
from exclave.api.csr import make_csr
from exclave.api.delivery import delivery_key_text
from exclave.api.join_token import JoinToken, decode_token, encode_token
from exclave.api.member import condition_of, member_object
from exclave.api.names import accounts_namespace
from exclave.api.requests import Object, Request
from exclave.cluster.client import Cluster
from exclave.cluster.watch import Upserted
from exclave.errors import ApiRefusal
from exclave.link.layout import LINK, TABLE
from exclave_sandbox.expect import UnexpectedError, differences, eventually, expect
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.namespaces import Machine
from exclave_sandbox.stage.programs import module, open_program
from exclave_sandbox.stage.stage import CLUSTER, DemoStage, fetch

TOKEN_LIFE = 3600  # seconds
SSH = 22
PLAINTEXT = "the pod's request arrives in plaintext and without an identity"
BY_ADDRESS = f"http://{mesh.VM}:{mesh.GROUP_PORT}/"  # the VM's application, without any Service
SPIFFE_ID = f"spiffe://{mesh.TRUST_DOMAIN}/ns/{mesh.NAMESPACE}/sa/{mesh.GROUP}"


def identity_of(account: str) -> str:
    """The DNS form of an account's identity."""
    return f"{account}.{mesh.NAMESPACE}.serviceaccount.identity.{mesh.LINKERD}.{mesh.TRUST_DOMAIN}"


async def issue_token(stage: DemoStage, uses: int, part: str = "k7q2x") -> str:
    """A join token of the group for so many machines: the line to paste. `part`: of its and the members' names."""
    expires, access = time.time() + TOKEN_LIFE, stage.access
    account = join_account(mesh.NAMESPACE, mesh.GROUP, part, uses, expires)
    await stage.admin.send(api.create(account.resource, account.namespace, account.body))
    name = account.body["metadata"]["name"]
    granted = await stage.admin.send(api.create_token(accounts_namespace(mesh.NAMESPACE), name, TOKEN_LIFE))
    jwt = granted["status"]["token"]
    return encode_token(JoinToken(access.servers, access.ca, mesh.NAMESPACE, mesh.GROUP, jwt, float(int(expires))))


@dataclass
class JoinScenes:
    """The VM joins. `member` is the Member's name, "" before it has joined."""

    stage: DemoStage
    member: str = ""
    _token: str = field(default="", repr=False)
    _began: float = 0.0

    async def outside(self) -> str:
        """Before: the pod reaches the VM, without an identity."""
        pod = self.stage.pod
        await eventually("application and pod", lambda: _request(pod, mesh.GROUP_PORT), bool)
        answer = await fetch(pod, BY_ADDRESS)
        expect("client_id", answer["client_id"], None)
        return PLAINTEXT

    async def make_token(self) -> str:
        """An admin does this once per rollout."""
        self._token = await issue_token(self.stage, 2)
        size = len(self._token)
        return f"group {mesh.NAMESPACE}/{mesh.GROUP}; one line of {size} characters, for 2 VMs within an hour"

    async def token_thief(self) -> str:
        """A thief of the token is refused: first by the admission policy, then by RBAC."""
        stolen, key = decode_token(self._token), ec.generate_private_key(ec.SECP256R1())
        name = f"{mesh.GROUP}-k7q2x-3"  # the token is for two
        member = member_object(
            mesh.NAMESPACE,
            name,
            nonce="n" * 16,
            machine_hash="0" * 16,
            delivery_key=delivery_key_text(key),
            csr=make_csr(key, name),
            addresses=[mesh.VM],
            facts={},
        )
        async with self.stage.open_client(stolen.token) as thief:
            attempts = api.create(api.MEMBERS, mesh.NAMESPACE, member), api.list_all(api.SECRETS, mesh.NAMESPACE)
            return "\n".join([await _refusal(thief, request) for request in attempts])

    async def join(self) -> str:
        """The one line, pasted on the VM."""
        self._began = trio.current_time()
        done = await self.stage.vm.command("join", "--token-file", "-", "--json", stdin=self._token.encode())
        if done.status != 0:
            printed = f"{done.errors}\n{done.output.decode().strip()}"
            raise UnexpectedError(f"exit status {done.status}\n{printed}\n{self.stage.vm.agent_log_tail()}")
        self.member = json.loads(done.output)["joined"]["member"]
        took = trio.current_time() - self._began
        return f"exclave join --token-file -: member {mesh.NAMESPACE}/{self.member}, ready after {took:.1f} s"

    async def admitted(self) -> str:
        """The conditions that the controller wrote into the Member."""
        status = (await find(self.stage, "Member", self.member))["status"]
        true = [one["type"] for one in status["conditions"] if one["status"] == "True"]
        expect("conditions that are True", sorted(true), ["Admitted", "Live", "Registered"])
        if "credential" in status:
            raise UnexpectedError("the sealed credential is still in the Member")
        return f"{', '.join(true)}; the sealed credential was read and is removed"

    async def certified(self) -> str:
        """The certificate's names, in the order that the proxy needs."""
        path = Path(self.stage.vm.folder, "var/lib/exclave/svid.json")
        leaf = x509.load_pem_x509_certificate(json.loads(path.read_text())["chain"].encode())
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = [str(name.value) for name in names]
        expect("SANs", found, [identity_of(mesh.GROUP), SPIFFE_ID])
        return "\n".join(found)

    async def proxy_ready(self) -> str:
        """The proxy's process: not root, and with a resolv.conf of its own."""
        pid = (await self.stage.vm.active_proxy())["pid"]
        machine = self.stage.vm.machine
        user = (await machine.must("stat", "--format=%U", f"/proc/{pid}")).decode().strip()
        expect("its user", user, "nobody")
        lines = (await machine.must("cat", f"/proc/{pid}/root/etc/resolv.conf", f"/proc/{pid}/status")).decode()
        own = (await machine.must("nsenter", f"--target={pid}", "--mount", "cat", "/etc/resolv.conf")).decode()
        nameserver = next(line.split()[1] for line in own.splitlines() if line.startswith("nameserver"))
        rights = next(line.split()[1] for line in lines.splitlines() if line.startswith("CapEff"))
        expect("its capabilities", int(rights, 16), 0)
        return f"instance a, as user {user}, without capabilities, with name server {nameserver}"

    async def redirected(self) -> str:
        """One table in the kernel; SSH is not redirected."""
        machine = self.stage.vm.machine
        rules = (await machine.must("nft", "list", "table", "inet", TABLE)).decode()
        command = machine.command(*module("exclave_sandbox.stage.echo", "ssh", str(SSH)))
        async with open_program(command, self.stage.scratch / "ssh.log"):
            await eventually(f"port {SSH}", lambda: _request(None, SSH), bool)
            expect(f"client at port {SSH}", (await _request(None, SSH))["peer"], _OUTSIDE)
        expect(f"client at port {mesh.GROUP_PORT}", (await _request(None, mesh.GROUP_PORT))["peer"], mesh.VM)
        return f"table inet {TABLE}, {len(rules.splitlines())} lines; port {SSH} is not captured"

    async def listed(self) -> str:
        """The object that Linkerd's destination controller reads."""
        workload = await find(self.stage, "ExternalWorkload", self.member)
        expect("ports", [port["port"] for port in workload["spec"]["ports"]], [mesh.GROUP_PORT])
        expect("workloadIPs", workload["spec"]["workloadIPs"], [{"ip": mesh.VM}])
        expect("Ready", ready_of(workload), "True")
        return (
            f"ExternalWorkload {self.member}: port {mesh.GROUP_PORT}, Ready, {workload['spec']['meshTLS']['identity']}"
        )

    async def status(self) -> str:
        """The operator's view."""
        done = await self.stage.vm.command("status")
        expect("exit status", done.status, 0)
        return done.output.decode().rstrip()


_OUTSIDE = CLUSTER
"""This process's own address in the VM's network. An application sees it only if no proxy is between."""


async def _request(machine: Machine | None, port: int) -> dict[str, Any]:
    """The answer of an application on the VM to a machine, or to this process (None); empty without one."""
    try:
        return await fetch(machine, f"http://{mesh.VM}:{port}/")
    except UnexpectedError:
        return {}


async def _refusal(thief: Cluster, request: Request) -> str:
    """The API server's message. Raises UnexpectedError if it does not refuse."""
    try:
        await thief.send(request)
    except ApiRefusal as refusal:
        return textwrap.fill(refusal.message.partition(": ")[2], 100)
    raise UnexpectedError(f"{request.verb} {request.what}: a refusal was expected")


async def find(stage: DemoStage, kind: str, name: str) -> Object:
    """A Member or an ExternalWorkload as the API server has it; empty if there is none."""
    resource = {"Member": api.MEMBERS, "ExternalWorkload": api.EXTERNAL_WORKLOADS}[kind]
    try:
        return await stage.admin.send(api.get(resource, mesh.NAMESPACE, name))
    except ApiRefusal as refusal:
        if refusal.status != 404:
            raise
        return {}


def ready_of(workload: Object) -> str | None:
    """The status of an ExternalWorkload's condition Ready."""
    ready = condition_of(workload, "Ready")
    return None if ready is None else str(ready.status)


@dataclass
class LeaveScenes:
    """The VM leaves. `before` is its snapshot from before it joined."""

    stage: DemoStage
    joining: JoinScenes
    before: dict[str, str]

    async def in_order(self) -> str:
        """`exclave leave`, watched from outside."""
        stage, member = self.stage, self.joining.member
        pid = (await stage.vm.active_proxy())["pid"]
        trace: list[str] = []
        async with trio.open_nursery() as nursery:
            await nursery.start(self._watch_workload, member, trace)
            nursery.start_soon(self._watch_proxy, pid, trace)
            done = await stage.vm.command("leave")
            expect("exit status", done.status, 0)
            found = await find(stage, "Member", member)
            expect("the Member is being deleted", not found or "deletionTimestamp" in found["metadata"], True)
        left = [await self._has("ip", "link", "show", LINK), await self._has("nft", "list", "table", "inet", TABLE)]
        trace.append("RULES OR LINK STILL THERE" if any(left) else "rules and link gone")
        expect("trace", trace, list(LEAVING))
        return " → ".join(trace)

    async def _watch_workload(self, member: str, trace: list[str], *, task_status: "trio.TaskStatus[None]") -> None:
        """Until the ports are withdrawn: check that the VM still serves while pods may still send traffic."""
        has_begun = False
        async with self.stage.admin.watch(api.EXTERNAL_WORKLOADS, mesh.NAMESPACE, member) as events:
            async for event in events:
                if not has_begun:
                    task_status.started()
                    has_begun = True
                if not isinstance(event, Upserted):
                    raise UnexpectedError("the ExternalWorkload went before its ports")
                ready, ports = ready_of(event.object), event.object["spec"].get("ports")
                if ready == "False" and ports and not trace:
                    trace.append("Ready=False")
                if not ports:
                    serves = await self._has("nft", "list", "table", "inet", TABLE)
                    trace.append("ports withdrawn" if serves else "RULES WENT BEFORE THE PORTS")
                    return

    async def _watch_proxy(self, pid: int, trace: list[str]) -> None:
        """Until the proxy has ended: no rule may redirect new connections to it by then."""
        await self.stage.vm.machine.run(sys.executable, "-I", "-c", _WAIT, str(pid), timeout=60.0)
        is_redirected = await self._has("nft", "list", "chain", "inet", TABLE, "inbound")
        trace += ["PROXY ENDED WHILE RULES POINT TO IT"] if is_redirected else ["nothing new captured", "proxy ended"]

    async def _has(self, *command: str) -> bool:
        return (await self.stage.vm.machine.run(*command)).status == 0

    async def no_trace(self) -> str:
        """The VM as it was before it joined."""
        return await compare(self.before, self.stage.vm.snapshot)

    async def outside_again(self) -> str:
        """After: the pod reaches the application, without an identity."""
        answer = await fetch(self.stage.pod, BY_ADDRESS)
        expect("client_id", answer["client_id"], None)
        return PLAINTEXT

    async def without_controller(self) -> str:
        """Join again, and leave while the controller is down."""
        stage = self.stage
        await self.joining.join()
        await stage.controller.end()
        began = trio.current_time()
        done = await stage.vm.command("leave", timeout=90.0)
        expect("exit status", done.status, 0)
        await compare(self.before, stage.vm.snapshot)
        return f"{self.joining.member}: no trace on the VM after {trio.current_time() - began:.1f} s"

    async def nothing_remains(self) -> str:
        """The controller comes back and removes what is left."""
        self.stage.start_controller()
        await eventually("an empty cluster", self._remains, lambda remains: not remains)
        return "no Member, ExternalWorkload, Lease or account of a VM is left in the cluster"

    async def _remains(self) -> list[str]:
        found = []
        for resource in (api.MEMBERS, api.EXTERNAL_WORKLOADS, api.LEASES, api.SERVICE_ACCOUNTS):
            is_account = resource is api.SERVICE_ACCOUNTS
            namespace = accounts_namespace(mesh.NAMESPACE) if is_account else mesh.NAMESPACE
            listed = await self.stage.admin.send(api.list_all(resource, namespace))
            names = [item["metadata"]["name"] for item in listed["items"]]
            found += [f"{resource.kind} {name}" for name in names if not is_account or ".vm." in name]
        return found


async def compare(before: dict[str, str], snapshot: Callable[[], Awaitable[dict[str, str]]]) -> str:
    """The subjects that are as before. Raises UnexpectedError with each difference."""
    found = differences(before, await snapshot())
    if found:
        raise UnexpectedError("\n".join(found))
    return f"unchanged: {', '.join(sorted(before))}"


_WAIT = "import os, select, sys; select.select([os.pidfd_open(int(sys.argv[1]))], [], [])"

LEAVING = ("Ready=False", "ports withdrawn", "nothing new captured", "proxy ended", "rules and link gone")
"""The only right order."""
