"""The demo's first scenes: a VM outside of the mesh, a join token, and the join as the cluster and the kernel show it.

Rules of all scenes: a step checks the API server, the kernel and the pod, and asks the agent only for what those do not
show. It returns the figures that it measured, or raises UnexpectedError.
"""

import json
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.admin.objects import join_account
from exclave.api.csr import make_csr
from exclave.api.delivery import delivery_key_text
from exclave.api.join_token import JoinToken, decode_token, encode_token
from exclave.api.member import member_object
from exclave.api.names import accounts_namespace
from exclave.api.requests import (
    EXTERNAL_WORKLOADS,
    MEMBERS,
    SECRETS,
    Object,
    Request,
    create,
    create_token,
    get,
    list_all,
)
from exclave.cluster.client import Cluster
from exclave.errors import ApiRefusal
from exclave.link.layout import TABLE
from exclave_sandbox.expect import UnexpectedError, eventually, expect
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.namespaces import Machine
from exclave_sandbox.stage.programs import module, open_program
from exclave_sandbox.stage.stage import CLUSTER, DemoStage
from exclave_sandbox.stage.vm import fetch

TOKEN_LIFE = 3600
"""Seconds."""

SSH = 22
PLAINTEXT = "the pod's request arrives in plaintext and without an identity"

BY_ADDRESS = f"http://{mesh.VM}:{mesh.GROUP_PORT}/"
"""The VM's application, without any Service."""


async def issue_token(stage: DemoStage, uses: int) -> str:
    """A join token of the group for so many machines: the line to paste."""
    expires, access = time.time() + TOKEN_LIFE, stage.access
    account = join_account(mesh.NAMESPACE, mesh.GROUP, "k7q2x", uses, expires)
    await stage.admin.send(create(account.resource, account.namespace, account.body))
    name = account.body["metadata"]["name"]
    granted = await stage.admin.send(create_token(accounts_namespace(mesh.NAMESPACE), name, TOKEN_LIFE))
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
            return "\n".join(
                [
                    await _refusal(thief, create(MEMBERS, mesh.NAMESPACE, member)),
                    await _refusal(thief, list_all(SECRETS, mesh.NAMESPACE)),
                ]
            )

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
        identity = f"{mesh.GROUP}.{mesh.NAMESPACE}.serviceaccount.identity.{mesh.LINKERD}.{mesh.TRUST_DOMAIN}"
        expect("SANs", found, [identity, f"spiffe://{mesh.TRUST_DOMAIN}/ns/{mesh.NAMESPACE}/sa/{mesh.GROUP}"])
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
    resource = {"Member": MEMBERS, "ExternalWorkload": EXTERNAL_WORKLOADS}[kind]
    try:
        return await stage.admin.send(get(resource, mesh.NAMESPACE, name))
    except ApiRefusal as refusal:
        if refusal.status != 404:
            raise
        return {}


def ready_of(workload: Object) -> str | None:
    """The status of an ExternalWorkload's condition Ready."""
    conditions = (workload.get("status") or {}).get("conditions") or []
    found = [str(one["status"]) for one in conditions if one["type"] == "Ready"]
    return found[0] if found else None
