"""A cluster with Linkerd's objects, in which an admin installs exclave, and the controller that its Deployment names.

Nothing here runs pods: `controller` starts the program that the Deployment names, under the account that `install` has
made, and a Pod that stands for it. When that Pod is told to go, as it is when the Deployment is deleted, the program is
ended as a kubelet would end it.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from exclave.api.names import CONTROLLER, ELECTION
from exclave.api.requests import CONFIG_MAPS, DEPLOYMENTS, LEASES, MEMBERS, PODS, WORKLOAD_GROUPS, path_of
from exclave_sandbox.pki import Authority
from exclave_sandbox.stage.mesh import mesh_requests
from support.admin import Admin, admin_of
from support.mesh import Mesh, mesh

from .conftest import Server
from .kubernetes import Kubernetes

MERGE = {"Content-Type": "application/merge-patch+json"}
GROUPS = path_of(WORKLOAD_GROUPS, None)
NETWORK = ("--network", "10.77.0.0/24", "--port", "8080")


class Cluster:
    """One cluster, its admin, and a client that may do everything."""

    def __init__(self, kubernetes: Kubernetes, folder: Path, client: httpx.Client) -> None:
        self.kubernetes = kubernetes
        self.server = Server("own", kubernetes.url, kubernetes.ca, kubernetes.admin_token)
        self.admin: Admin = admin_of(self.server, folder)
        self.folder = folder
        self.client = client
        self.left_at_its_end: list[str] | None = None
        """The groups that there were when the controller had ended."""

    def furnish(self, linkerd: str = "linkerd") -> Mesh:
        """Have Linkerd's objects; exclave's namespace and issuer are for `install` to make."""
        made = mesh()
        for request in mesh_requests(made.anchor.pem, made.issuer.pem, made.issuer.key_pem):
            body = request.body or {}
            if "namespaces/exclave" in request.path or body["metadata"]["name"] in ("exclave", "kube-system"):
                continue
            path = request.path.replace("/namespaces/linkerd", f"/namespaces/{linkerd}")
            if body["metadata"]["name"] == "linkerd":
                body = {"metadata": {"name": linkerd}}
            answer = self.client.post(path, json=body)
            assert answer.status_code in (201, 409), answer.text
        self.publish(made.anchor.pem)
        return made

    def publish(self, anchors: str) -> None:
        """What `linkerd upgrade --identity-trust-anchors-file` does."""
        self.merge(
            path_of(CONFIG_MAPS, "linkerd", "linkerd-identity-trust-roots"), {"data": {"ca-bundle.crt": anchors}}
        )

    def merge(self, path: str, body: object) -> None:
        """Merge into an object."""
        answer = self.client.patch(path, content=json.dumps(body), headers=MERGE)
        assert answer.status_code == 200, answer.text

    def issuer_files(self, issuer: Authority) -> list[str]:
        """An intermediate as files, and the options that name them."""
        chain, key = self.folder / "issuer.crt", self.folder / "issuer.key"
        chain.write_text(issuer.pem)
        key.write_text(issuer.key_pem)
        return ["--issuer-certificate", str(chain), "--issuer-key", str(key)]

    def rows(self) -> dict[str, tuple[str, str]]:
        """The rows of `check`: how each came out, and what was met."""
        found = json.loads(self.admin.type("check", "-o", "json").out)
        return {one["description"]: (one["result"], one.get("error", "")) for one in found["categories"][0]["checks"]}

    @contextmanager
    def controller(self) -> Iterator["subprocess.Popen[bytes]"]:
        """The real controller, and the Pod that stands for it; yields when it leads."""
        kubectl = self.admin.kubectl
        (self.folder / "controller.token").write_text(kubectl.create_token("exclave", CONTROLLER, 3600))
        (self.folder / "controller.ca").write_text(self.server.ca)
        deployment = self.client.get(path_of(DEPLOYMENTS, "exclave", CONTROLLER)).json()
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        told = [one for one in container["args"] if not one.startswith("--listen")]
        command = [
            sys.executable, "-m", "exclave", "controller", "--server", self.server.url, *told,
            "--ca-file", str(self.folder / "controller.ca"), "--token-file", str(self.folder / "controller.token"),
        ]  # fmt: skip
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": CONTROLLER}
        metadata = {
            "name": f"{CONTROLLER}-1",
            "labels": {"app.kubernetes.io/name": CONTROLLER},
            "finalizers": ["exclave.test/kubelet"],
            "ownerReferences": [{**owner, "uid": deployment["metadata"]["uid"]}],
        }
        spec = deployment["spec"]["template"]["spec"]  # the namespace admits only restricted pods
        made = self.client.post(path_of(PODS, "exclave"), json={"metadata": metadata, "spec": spec})
        assert made.status_code == 201, made.text
        with (self.folder / "controller.log").open("ab") as log:
            started = subprocess.Popen(command, stderr=log)
        kubelet = threading.Thread(target=self._obey, args=(started,))
        kubelet.start()
        try:
            until(self._is_led)
            yield started
        finally:
            self.client.delete(path_of(PODS, "exclave", f"{CONTROLLER}-1"), params={"gracePeriodSeconds": "0"})
            kubelet.join()

    def _is_led(self) -> bool:
        lease = self.client.get(path_of(LEASES, "exclave", ELECTION)).json()
        return bool((lease.get("spec") or {}).get("holderIdentity"))

    def _obey(self, started: "subprocess.Popen[bytes]") -> None:
        """End the program when its Pod is told to go; let the Pod go when it has ended."""
        place = path_of(PODS, "exclave", f"{CONTROLLER}-1")
        with self.server.client(self.server.admin_token) as client:
            while "deletionTimestamp" not in client.get(place).json().get("metadata", {"deletionTimestamp": "gone"}):
                time.sleep(0.2)
            time.sleep(1.0)  # a container takes its time to end, and its controller goes on meanwhile
            started.terminate()
            started.wait()
            self.left_at_its_end = [one["metadata"]["name"] for one in client.get(GROUPS).json().get("items", ())]
            client.patch(place, content='{"metadata":{"finalizers":null}}', headers=MERGE)
            client.delete(place, params={"gracePeriodSeconds": "0"})

    def until_gone(self, member: str) -> None:
        """Wait until the controller has let go of a member."""
        until(lambda: self.client.get(path_of(MEMBERS, "shop", member)).status_code == 404)


@contextmanager
def cluster_of(kubernetes: Kubernetes, folder: Path) -> Iterator[Cluster]:
    """An admin's view of one."""
    with kubernetes.client() as client:
        yield Cluster(kubernetes, folder, client)


def until(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    """Look again and again until it is so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)
