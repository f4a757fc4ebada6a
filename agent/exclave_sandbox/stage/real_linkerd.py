"""The real Linkerd on the stage: installed by its own command line, with its controllers and proxies.

A program gets a /run of its own, with the files that its pod would have. Destination and policy controller run on the
cluster's machine behind a proxy, as in their pod. Every machine with a proxy has an identity controller, too: a proxy
without a certificate calls it as `localhost`, and nowhere else.
"""

import base64
import json
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.api.identity import MeshIdentity
from exclave.api.requests import Object
from exclave.kit.host.command import run_command
from exclave.kit.host.files import write_atomic
from exclave_sandbox.expect import UnexpectedError, eventually
from exclave_sandbox.linkerd.release import LinkerdBinaries, container, environment, installable
from exclave_sandbox.pki import Authority
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.namespaces import UPLINK, Machine
from exclave_sandbox.stage.programs import StageProgram, open_program

PROXY_USER = 65534  # Debian's `nobody`: it owns nothing here
CONTROLLER_PORTS = (8086, 8090)
CONTROLLER_RULES = f"""
table ip linkerd {{
    chain inbound {{
        type nat hook prerouting priority -100; policy accept;
        iifname "{UPLINK}" tcp dport {{ {", ".join(map(str, CONTROLLER_PORTS))} }} redirect to :4143
    }}
}}
"""
"""Other machines reach the controllers through the proxy. Other ports of the cluster's machine are not captured."""

_IDENTITY_PORT = 8081
_COMMAND_TIME = 120.0  # seconds for one run of `linkerd` or kubectl
PROXY_READY = ("python3", "-I", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:4191/ready', timeout=2)")
"""Succeeds where a proxy is ready, on its own machine."""

_WITH_RUN = ("unshare", "--mount", "--", "sh", "-ec", 'mount --bind "$0" /run; exec "$@"')


async def is_proxy_ready(machine: Machine | None) -> bool:
    """True if the proxy of this machine (None: the cluster's) is ready."""
    done = await run_command(list(PROXY_READY) if machine is None else machine.command(*PROXY_READY))
    return done.status == 0


@dataclass(frozen=True)
class Pod:
    """A pod whose containers run on a machine (None: the cluster's)."""

    namespace: str
    name: str
    account: str
    address: str
    machine: Machine | None

    @property
    def manifest(self) -> Object:
        """The object, with its status."""
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "labels": {"linkerd.io/control-plane-ns": mesh.LINKERD},
            },
            "spec": {"serviceAccountName": self.account, "containers": [{"name": "app", "image": "none"}]},
            "status": {"phase": "Running", "podIP": self.address, "podIPs": [{"ip": self.address}]},
        }


@dataclass(frozen=True)
class RealLinkerd:
    """An installed Linkerd. `scratch` has its files and the kubeconfig of an administrator; `server`: (host, port)."""

    binaries: LinkerdBinaries
    scratch: Path
    server: tuple[str, int]
    ca: str
    anchor: Authority
    manifests: Sequence[Object]

    @asynccontextmanager
    async def open_control_plane(self) -> AsyncIterator[Mapping[str, StageProgram]]:
        """Run destination and policy controller on the cluster's machine, and the proxy before them; all by name."""
        pod = Pod(mesh.LINKERD, "linkerd-destination-0", "linkerd-destination", mesh.CONTROL_PLANE, None)
        await self._kubectl("apply", "-f", "-", stdin=json.dumps(pod.manifest).encode())
        status = json.dumps({"status": pod.manifest["status"]})
        await self._kubectl("patch", "pod", pod.name, "-n", pod.namespace, "--subresource=status", "-p", status)
        await _must("nft", CONTROLLER_RULES)
        async with AsyncExitStack() as stack:
            programs = {}
            for name, program in {
                "destination": self.binaries.controller,
                "policy": self.binaries.policy_controller,
            }.items():
                run = await self._make_run(f"linkerd-{name}", pod.namespace, pod.account)
                found = container(self.manifests, pod.account, name)
                command = self._command(pod.machine, run, program, *found["args"])
                variables = environment(found, pod.manifest, {"HOSTNAME": pod.name, **self._in_cluster()})
                programs[name] = await stack.enter_async_context(self._open(pod.machine, command, name, variables))
            programs["proxy"] = await stack.enter_async_context(self.open_proxy(pod, "localhost."))
            yield programs

    @asynccontextmanager
    async def open_proxy(self, pod: Pod, control_plane: str = mesh.CONTROL_PLANE) -> AsyncIterator[StageProgram]:
        """Run a pod's proxy with its identity controller until it is ready; `control_plane`: its host."""
        async with AsyncExitStack() as stack:
            run = await self._make_run(f"identity-{pod.name}", mesh.LINKERD, "linkerd-identity")
            found = container(self.manifests, "linkerd-identity", "identity")
            where = (f"-addr=127.0.0.1:{_IDENTITY_PORT}", "-admin-addr=127.0.0.1:0")
            command = self._command(pod.machine, run, self.binaries.controller, *found["args"], *where)
            variables = environment(found, pod.manifest, self._in_cluster())
            await stack.enter_async_context(self._open(pod.machine, command, f"identity-{pod.name}", variables))
            run = await self._make_run(f"proxy-{pod.name}", pod.namespace, pod.account)
            command = self._command(pod.machine, run, str(self.binaries.proxy))
            found = container(self.manifests, "linkerd-destination", "linkerd-proxy")
            variables = environment(found, pod.manifest, self._addresses(control_plane))
            proxy = await stack.enter_async_context(self._open(pod.machine, command, f"proxy-{pod.name}", variables))
            await eventually(f"proxy of {pod.name}", partial(is_proxy_ready, pod.machine), bool)
            yield proxy

    def _addresses(self, control_plane: str) -> dict[str, str]:
        destination, policy = CONTROLLER_PORTS
        return {
            "LINKERD2_PROXY_DESTINATION_SVC_ADDR": f"{control_plane}:{destination}",
            "LINKERD2_PROXY_POLICY_SVC_ADDR": f"{control_plane}:{policy}",
            "LINKERD2_PROXY_IDENTITY_SVC_ADDR": f"localhost.:{_IDENTITY_PORT}",
            "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS": self.anchor.pem,
        }

    def _in_cluster(self) -> dict[str, str]:
        host, port = self.server
        return {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": str(port), "HOME": "/nonexistent"}

    def _command(self, machine: Machine | None, run: Path, program: str, *arguments: str) -> list[str]:
        user = ("setpriv", f"--reuid={PROXY_USER}", f"--regid={PROXY_USER}", "--clear-groups")
        inside = (*_WITH_RUN, str(run), *user, program, *arguments)
        return list(inside) if machine is None else machine.command(*inside)

    def _open(
        self, machine: Machine | None, command: list[str], name: str, variables: Mapping[str, str]
    ) -> AbstractAsyncContextManager[StageProgram]:
        log = self.scratch / f"linkerd-{name}.log"
        return open_program(command, log, environment=variables, in_machine=machine is not None)

    async def _make_run(self, name: str, namespace: str, account: str) -> Path:
        """The folder that a program gets as /run: accounts' tokens, certificates and configuration at their places."""
        run = self.scratch / f"linkerd-{name}"
        data = {(each["kind"], each["metadata"]["name"]): each["data"] for each in self.manifests if "data" in each}
        identity = MeshIdentity(account, namespace, mesh.LINKERD, mesh.TRUST_DOMAIN)
        token = await self._token(namespace, account, "--audience=identity.l5d.io")
        key, request = make_request(identity.dns_name)
        files = {
            "secrets/kubernetes.io/serviceaccount/token": await self._token(namespace, account),
            "secrets/kubernetes.io/serviceaccount/ca.crt": self.ca.encode(),
            "secrets/kubernetes.io/serviceaccount/namespace": namespace.encode(),
            "secrets/tokens/linkerd-identity-token": token,
            "linkerd/config/values": data["ConfigMap", "linkerd-config"]["values"].encode(),
            "linkerd/identity/trust-roots/ca-bundle.crt": self.anchor.pem.encode(),
            "linkerd/identity/end-entity/key.p8": key,
            "linkerd/identity/end-entity/csr.der": request,
        }
        for source, target in _SECRETS.items():
            for entry, value in data["Secret", source].items():
                files[f"linkerd/{target}/{entry}"] = base64.b64decode(value)
        for path, content in files.items():
            (run / path).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(run / path, content)
        for found in (run, *run.rglob("*")):
            shutil.chown(found, PROXY_USER, PROXY_USER)
        return run

    async def _token(self, namespace: str, account: str, *options: str) -> bytes:
        return (await self._kubectl("create", "token", account, "-n", namespace, "--duration=24h", *options)).strip()

    async def _kubectl(self, *arguments: str, stdin: bytes = b"") -> bytes:
        return await _must("kubectl", f"--kubeconfig={self.scratch}/kubeconfig", *arguments, stdin=stdin)


_SECRETS = {"linkerd-identity-issuer": "identity/issuer", "linkerd-policy-validator-k8s-tls": "tls"}
"""The folder of each Secret, below /run/linkerd of its pod."""


async def install_linkerd(
    binaries: LinkerdBinaries, scratch: Path, server: tuple[str, int], ca: str, anchor: Authority, issuer: Authority
) -> RealLinkerd:
    """Install it as its guide says, and start nothing. Raises UnexpectedError."""
    for name, text in {"anchor.pem": anchor.pem, "issuer.pem": issuer.pem, "issuer.key": issuer.key_pem}.items():
        write_atomic(scratch / f"linkerd-{name}", text.encode())
    install = (str(binaries.cli), "install", "--ignore-cluster")
    definitions = await _must(*install, "--crds", "--set=installGatewayAPI=true")
    control_plane = await _must(
        *install,
        f"--identity-trust-anchors-file={scratch}/linkerd-anchor.pem",
        f"--identity-issuer-certificate-file={scratch}/linkerd-issuer.pem",
        f"--identity-issuer-key-file={scratch}/linkerd-issuer.key",
        "--set=clusterNetworks=" + "\\,".join((*mesh.CLUSTER_NETWORKS, mesh.VM_NETWORK)),
    )
    manifests = installable(one for text in (definitions, control_plane) for one in yaml.safe_load_all(text) if one)
    installed = RealLinkerd(binaries, scratch, server, ca, anchor, manifests)
    first = ("CustomResourceDefinition", "Namespace")  # the others need these
    for chosen in ([one for one in manifests if one["kind"] in first], manifests):
        stream = json.dumps({"apiVersion": "v1", "kind": "List", "items": chosen}).encode()
        await installed._kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=stream)
    return installed


def make_request(name: str) -> tuple[bytes, bytes]:
    """A key (PKCS#8) and a CSR for the name, both DER, as the proxy's container makes them."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
    private = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


async def _must(*command: str, stdin: bytes = b"") -> bytes:
    try:
        done = await run_command(command, stdin=stdin, timeout=_COMMAND_TIME)
    except OSError as problem:  # it is missing, or no program of this machine
        text = f"Linkerd cannot be installed without {command[0]}: {problem.strerror}"
        raise UnexpectedError(f"{text}\nto do: put a program there that this machine can run") from None
    if done.status != 0:
        text = f"{' '.join(command[:3])}: exit status {done.status}\n{done.errors[-2000:].rstrip()}"
        raise UnexpectedError(f"{text}\nto do: name the programs of one release, 2.16 or newer, and kubectl for it")
    return done.output
