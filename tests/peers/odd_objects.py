"""Odd objects that match their schemas, as a program: `python odd_objects.py URL CA-FILE SEED COUNT`.

An administrator's token comes on standard input. A seed draws the same objects each time: Members, statuses, groups,
ConfigMaps, Leases, ExternalWorkloads and Secrets, of exclave's kinds, names and labels or of nearly these, in
namespaces with groups and without. It prints how often each HTTP status came back, by kind.

Nothing here takes what belongs to the honest machines of the test: their names, machine ids, and addresses in groups.
"""

import base64
import http.client
import json
import queue
import ssl
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from api.group_specs import SPECS
from exclave.api.csr import make_csr
from exclave.api.delivery import delivery_key_text

from .attacks import nested
from .test_contract import core, group

AT_ONCE = 4  # more would keep the API server itself busy
HONEST, NEIGHBOUR, TENANT = "orchard", "hedge", "meadow"
"""Namespaces: with the honest machines' group, with groups beside it, and without any."""

FOREIGN = (TENANT, "default", "linkerd", "exclave", "kube-system", "orchard-vms")
EXCLAVE, WORKLOADS = "exclave.dev/v1alpha1", "workload.linkerd.io/v1beta1"
LEASES = "coordination.k8s.io/v1"
MERGE, JSON = "application/merge-patch+json", "application/json"

TEXTS = (
    "", " ", "x" * 256, "\x00", "\x1b[2J\x1b[31m", "a\nb\r\nc", "\u202egnp.exe", "{{.}}", "%s%n", "../../etc",
    "é" * 200, "null", "true", "-1", "1e999", "NaN", "\ufffe", "'; --", "<script>",
)  # fmt: skip
ADDRESSES = (
    "10.79.0.5", "10.79.0.6", "10.79.0.7", "10.78.200.1", "0.0.0.0", "255.255.255.255", "127.0.0.1", "169.254.77.1",
    "::1", "::", "::ffff:10.79.0.5", "fe80::1%eth0", "010.079.000.005", "10.79.0", "10.79.0.5/32", "10.79.0.5 ", "web",
    "x" * 64, "10.96.0.1", "224.0.0.1", "fd00::5",
)  # fmt: skip
TIMES = (
    "2026-01-02T03:04:05.000006Z", "0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z",
    "2262-04-12T00:00:00.000000+14:00",
)  # fmt: skip
MEMBERS_CONDITIONS = ("Admitted", "Registered", "Live", "Cloned", "Certified", "Ready", "a.b/Mine")
REASONS = ("Admitted", "NotReady", "GuardMissing", "HeartbeatsArrive", "NoHeartbeat", "NotLive", "TwoMachines", "X")
KEY = ec.generate_private_key(ec.SECP256R1())
WRONG_CURVE = ec.generate_private_key(ec.SECP384R1()).public_key()

Attempt = tuple[str, str, str, str, bytes]
"""Kind, method, path, content type, body."""


class Drawing:
    """Draws attempts. What it has made before is changed, forged and deleted later."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._made: list[tuple[str, str, str, str]] = []  # kind, API version, path, name
        self._kinds: tuple[tuple[int, Callable[[], Attempt]], ...] = (
            (6, self._member), (4, self._status), (3, self._group), (2, self._config_map), (4, self._lease),
            (4, self._workload), (2, self._secret), (3, self._deletion), (2, self._change),
        )  # fmt: skip

    def attempts(self, count: int) -> Iterator[Attempt]:
        """So many attempts."""
        weights, kinds = zip(*self._kinds, strict=True)
        for _ in range(count):
            yield self._random.choices(kinds, weights)[0]()

    # Words.

    def _pick(self, *found: Any) -> Any:
        return self._random.choice(found)

    def _some(self, odds: float) -> bool:
        return self._random.random() < odds

    def _text(self, longest: int = 256) -> str:
        return str(self._pick(*TEXTS))[:longest]

    def _name(self) -> str:
        """A name of a member, or nearly one. A token's id in it begins with `o`, which no honest one does."""
        which = self._random.randrange(40)
        base, ident = self._pick("web", "wide", "odd", "a", "web-green", "x" * 40), f"o{which:04d}"
        return str(self._pick(
            f"{base}-{ident}-1", f"{base}-{ident}-{self._random.randrange(1, 1000)}", f"{base}-{ident}-01",
            f"{base}-{ident}-0", f"{base}-{ident}-1000", f"{base}.{ident}-1", f"{base}-{ident}", f"0-{ident}-1",
            f"{base}-{ident}-1." + "y" * 180, f"exclave-controller-{which}", f"{base}--1",
        ))  # fmt: skip

    def _namespace(self) -> str:
        return str(self._pick(HONEST, NEIGHBOUR, NEIGHBOUR, NEIGHBOUR, *FOREIGN))

    def _metadata(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {"name": name}
        if self._some(0.5):
            found["labels"] = {
                "exclave.dev/group": self._pick("web", "wide", "odd", "", "nobody"),
                self._pick("app", "topology.kubernetes.io/zone"): "web",
            }
        if self._some(0.3):
            notes = ("cordoned", "renew", "labels", "adopted", "expires", "credential-life", "x")
            found["annotations"] = {
                f"exclave.dev/{key}": self._pick("true", "[]", "app,zone", "x" * 20_000, self._text()) for key in notes
            }
        if self._some(0.15):
            kind = self._pick("member", "ports", "group", "nobody")
            found["finalizers"] = [f"exclave.dev/{kind}"] * self._random.randrange(1, 3)
        if self._some(0.1):
            owner = {"apiVersion": EXCLAVE, "kind": "WorkloadGroup", "name": "odd", "uid": self._text(60) or "u"}
            found["ownerReferences"] = [owner | {"blockOwnerDeletion": True}]
        return found

    def _conditions(self, types: tuple[str, ...]) -> list[dict[str, Any]]:
        return [
            {
                "type": self._pick(*types),
                "status": self._pick("True", "False", "Unknown"),
                "reason": self._pick(*REASONS),
                "message": self._text() * self._pick(1, 100),
                "lastTransitionTime": self._pick(*TIMES),
            }
            for _ in range(self._random.randrange(5))
        ]

    # Objects.

    def _create(self, kind: str, api: str, plural: str, body: dict[str, Any]) -> Attempt:
        namespace = self._namespace()
        path = core(namespace, plural) if api == "v1" else group(api, namespace, plural)
        self._made.append((kind, api, path, body["metadata"]["name"]))
        text = json.dumps({"apiVersion": api, "kind": kind, **body}).encode()
        if self._some(0.03):  # of bytes that programs of others may write
            entry = b'"managedFields":[{"manager":"x","operation":"Update","apiVersion":"%s","fieldsType":"FieldsV1",'
            entry += b'"time":"2026-01-02T03:04:05Z","fieldsV1":%s}],'
            levels = nested(self._pick(4, 30, 100))  # 1,000 keep the API server itself busy: see `test_poisoned`
            text = text.replace(b'"metadata": {', b'"metadata": {' + entry % (api.encode(), levels), 1)
        return kind, "POST", path, JSON, text

    def _member(self) -> Attempt:
        name = self._name()
        public = WRONG_CURVE.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()
        facts = {f"fact {number} {self._text(20)}": self._text() for number in range(self._pick(0, 3, 64))}
        spec: dict[str, Any] = {
            "nonce": self._text(64) or "n",
            "machineHash": f"{self._random.randrange(8):016x}",
            "deliveryKey": self._pick(delivery_key_text(KEY), public, "x" * 1024, self._text() or "k"),
            "facts": facts,
        }
        if self._some(0.9):
            spec["addresses"] = [self._pick(*ADDRESSES) or "x"][: self._pick(1, 1, 1, 0)]
        if self._some(0.9):
            spec["csr"] = self._pick(make_csr(KEY, name[:60]), make_csr(KEY, "web"), "x" * 4096, self._text())
        for field, value in {
            "serving": True,
            "dataPath": self._pick("meshed", "outbound-open", "down"),
            "dataPathReason": self._text(),
            "loaded": {key: self._text() for key in ("anchors", "issuer", "settings", "proxy", "agent")},
            "renewal": {"request": self._text(64) or "r", "result": "failed", "message": self._text()},
        }.items():
            if self._some(0.5):
                spec[field] = value
        return self._create("Member", EXCLAVE, "members", {"metadata": self._metadata(name), "spec": spec})

    def _status(self) -> Attempt:
        kind, _, path, name = self._pick(*self._made, ("Member", EXCLAVE, group(EXCLAVE, TENANT, "members"), "none"))
        if kind not in ("Member", "WorkloadGroup", "ExternalWorkload"):
            return self._member()
        status: dict[str, Any] = {"conditions": self._conditions(MEMBERS_CONDITIONS)}
        if kind == "Member":
            status |= {
                "certificate": {"csrSha256": "0" * 64, "chain": self._text() or "c", "notAfter": self._text() or "n"},
                "externalWorkload": {"uid": self._text(), "ports": [self._random.randrange(-9, 99_999)] * 100},
                "settings": self._text(), "cordoned": self._some(0.5), "credential": self._text(),
                "mark": f"{self._random.randrange(16**64):064x}",
                "issued": [{"serial": self._text(), "time": self._pick(*TIMES, "x")}] * 5,
            }  # fmt: skip
            status = {key: value for key, value in status.items() if self._some(0.6)}
        return kind, "PATCH", f"{path}/{name}/status", MERGE, json.dumps({"status": status}).encode()

    def _group(self) -> Attempt:
        good = [spec for spec, refuser in SPECS.values() if refuser != "schema"]
        spec = {"networks": [self._pick("10.79.0.0/16", "fd00::/8", "10.79.0.5/32", "x")], **self._pick(*good)}
        if "0.0.0.0/0" in spec["networks"] or "10.0.0.0/8" in spec["networks"]:
            spec["networks"] = ["10.79.0.0/16"]  # what lies in there the honest machines have
        name = self._pick("odd", "web", "a", "web-green", "0", f"g{self._random.randrange(30)}", "x" * 40)
        body = {"metadata": self._metadata(name), "spec": spec}
        return self._create("WorkloadGroup", EXCLAVE, "workloadgroups", body)

    def _config_map(self) -> Attempt:
        names = ("exclave-mesh.wide", "exclave-mesh.odd", "exclave-mesh.", "exclave-mesh.web.x", "linkerd-config-2")
        data = {self._pick("settings.json", "x", "ca-bundle.crt"): self._text() * self._pick(1, 1000)}
        body: dict[str, Any] = {"metadata": self._metadata(self._pick(*names).rstrip(".")), "data": data}
        if self._some(0.1):
            body["immutable"] = True
        if self._some(0.2):
            body["binaryData"] = {"b": base64.b64encode(b"\x00\xff" * 50).decode()}
        return self._create("ConfigMap", "v1", "configmaps", body)

    def _lease(self) -> Attempt:
        spec = {
            "holderIdentity": self._text() * self._pick(1, 100) or "x",
            "renewTime": self._pick(*TIMES),
            "acquireTime": self._pick(*TIMES),
            "leaseTransitions": self._random.randrange(2**31),
            "leaseDurationSeconds": self._random.randrange(1, 2**31),
        }
        spec = {key: value for key, value in spec.items() if self._some(0.7)}
        return self._create("Lease", LEASES, "leases", {"metadata": self._metadata(self._name()), "spec": spec})

    def _workload(self) -> Attempt:
        ports = [
            {"name": self._text(), "port": self._random.randrange(1, 65_536), "protocol": self._pick("TCP", "X")}
            for _ in range(self._pick(0, 1, 5, 300))
        ]
        spec = {
            "meshTLS": {"identity": self._text(250) or "i", "serverName": self._text(250) or "s"},
            "ports": ports,
            "workloadIPs": [{"ip": self._pick(*ADDRESSES)} for _ in range(self._random.randrange(3))],
        }
        body = {"metadata": self._metadata(self._name()), "spec": spec}
        return self._create("ExternalWorkload", WORKLOADS, "externalworkloads", body)

    def _secret(self) -> Attempt:
        names = ("exclave-issuer", "exclave-marks-2", "linkerd-identity-issuer", "exclave-marks.x", self._name())
        data = {self._pick("key", "tls.crt", "crt.pem", "ca.crt"): base64.b64encode(self._text().encode()).decode()}
        body = {"metadata": self._metadata(self._pick(*names)), "type": self._pick("Opaque", "x/y"), "data": data}
        return self._create("Secret", "v1", "secrets", body)

    # What becomes of them.

    def _deletion(self) -> Attempt:
        if not self._made:
            return self._lease()
        kind, _, path, name = self._pick(*self._made)
        options = {"propagationPolicy": self._pick("Background", "Orphan", "Foreground")}
        return kind, "DELETE", f"{path}/{name}", JSON, json.dumps(options).encode()

    def _change(self) -> Attempt:
        if not self._made:
            return self._lease()
        kind, _, path, name = self._pick(*self._made)
        metadata = self._metadata(name) | {"finalizers": self._pick(None, [], ["exclave.dev/member"])}
        spec = {"serving": True} if kind == "Member" else {}
        body = {"metadata": metadata} | ({"spec": spec} if spec else {})
        return kind, "PATCH", f"{path}/{name}", MERGE, json.dumps(body).encode()


def write(url: str, tls: ssl.SSLContext, token: str, todo: "queue.SimpleQueue[Attempt]", found: Counter[str]) -> None:
    """Write what is in the queue until it is empty."""
    where = urlsplit(url)
    connection = http.client.HTTPSConnection(str(where.hostname), where.port, context=tls, timeout=60)
    while True:
        try:
            kind, method, path, content_type, body = todo.get_nowait()
        except queue.Empty:
            return
        headers = {"Authorization": f"Bearer {token}", "Content-Type": content_type}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.read()
        found[f"{kind} {answer.status}"] += 1


def main() -> None:
    """Write the objects, and print the answers."""
    url, ca_file, seed, count = sys.argv[1:]
    token, tls = sys.stdin.readline().strip(), ssl.create_default_context(cafile=ca_file)
    todo: queue.SimpleQueue[Attempt] = queue.SimpleQueue()
    for attempt in Drawing(int(seed)).attempts(int(count)):
        todo.put(attempt)
    counts = [Counter[str]() for _ in range(AT_ONCE)]
    threads = [threading.Thread(target=write, args=(url, tls, token, todo, found)) for found in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(sum(counts, Counter())))


if __name__ == "__main__":
    main()
