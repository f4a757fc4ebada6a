"""Specs of groups that are good or bad, and who refuses them: a table for schema, commands and controller.

`schema`: API servers refuse it, by the schema and its CEL rules. `code`: these cannot express it, so only the commands
and the controller refuse it. None: it is good.
"""

from typing import Any, Literal

Refuser = Literal["schema", "code"] | None


def ports(*found: dict[str, Any]) -> dict[str, Any]:
    return {"ports": list(found)}


def probe(**fields: Any) -> dict[str, Any]:
    return {"probes": [{"port": 80, **fields}]}


def failure(**fields: Any) -> dict[str, Any]:
    return {"failure": fields}


MANY = 101
SPECS: dict[str, tuple[dict[str, Any], Refuser]] = {
    "the least": ({}, None),
    "everything": (
        {
            "serviceAccount": "web", "networks": ["10.0.0.0/8", "fd00::/64"], "labels": {"app": "web", "a.b/c": ""},
            "ports": [{"name": "http", "port": 8080}, {"port": 9090, "opaque": True}],
            "certificateLifetime": "1h30m", "capture": "all", "inboundPolicy": "deny",
            "probes": [{"kind": "tcp", "port": 80, "every": "1.5s", "timeout": "500ms", "failures": 2}],
            "failure": {"after": "1m", "outbound": "closed", "inbound": "open"}, "forgetAfter": "168h",
            "proxyCores": 2,
        }, None,
    ),
    "no network": ({"networks": []}, "schema"),
    "a network with host bits": ({"networks": ["10.0.0.1/8"]}, "code"),
    "a network that is none": ({"networks": ["web"]}, "code"),
    "101 networks": ({"networks": ["10.0.0.0/8"] * MANY}, "schema"),
    "an account with dots": ({"serviceAccount": "web.vm.k7q2x-1"}, "schema"),
    "an account in capitals": ({"serviceAccount": "Web"}, "schema"),
    "the proxy's outbound port": (ports({"port": 4140}), "schema"),
    "the proxy's inbound port": (ports({"port": 4143}), "schema"),
    "the proxy's port for health": (ports({"port": 4190}), "schema"),
    "the proxy's admin port": (ports({"port": 4191}), "schema"),
    "ports beside the proxy's": (ports({"port": 4139}, {"port": 4141}, {"port": 4192}), None),
    "port 0": (ports({"port": 0}), "schema"),
    "port 65536": (ports({"port": 65536}), "schema"),
    "a port named linkerd-proxy": (ports({"name": "linkerd-proxy", "port": 80}), "schema"),
    "a port named linkerd-proxy-2": (ports({"name": "linkerd-proxy-2", "port": 80}), None),
    "one port twice": (ports({"name": "a", "port": 80}, {"name": "b", "port": 80}), "schema"),
    "one name twice": (ports({"name": "a", "port": 80}, {"name": "a", "port": 81}), "schema"),
    "a number that is another's name": (ports({"name": "81", "port": 80}, {"port": 81}), "code"),
    "two ports that change names": (ports({"name": "81", "port": 80}, {"name": "80", "port": 81}), None),
    "a name in capitals": (ports({"name": "HTTP", "port": 80}), "schema"),
    "a name with a dot": (ports({"name": "a.b", "port": 80}), "schema"),
    "a name that ends in a dash": (ports({"name": "a-", "port": 80}), "schema"),
    "a name of 64 characters": (ports({"name": "a" * 64, "port": 80}), "schema"),
    "an empty name": (ports({"name": "", "port": 80}), "schema"),
    "100 ports": (ports(*({"port": number} for number in range(1, MANY))), None),
    "101 ports": (ports(*({"port": number} for number in range(1, MANY + 1))), "schema"),
    "a policy that Linkerd does not know": ({"inboundPolicy": "open"}, "schema"),
    "no policy": ({"inboundPolicy": ""}, None),
    "the policy audit": ({"inboundPolicy": "audit"}, None),
    "capturing something else": ({"capture": "some"}, "schema"),
    "certificates of 9 s": ({"certificateLifetime": "9s"}, "schema"),
    "certificates of 10 s": ({"certificateLifetime": "10s"}, None),
    "certificates of 720 h": ({"certificateLifetime": "720h"}, None),
    "certificates of 720 h and 1 s": ({"certificateLifetime": "720h1s"}, "schema"),
    "certificates of a number": ({"certificateLifetime": "3600"}, "schema"),
    "certificates of -1 h": ({"certificateLifetime": "-1h"}, "schema"),
    "certificates of no time": ({"certificateLifetime": ""}, "schema"),
    "certificates of more than Go can count": ({"certificateLifetime": "9999999999h"}, "schema"),
    "a probe every 0 s": (probe(every="0s"), "schema"),
    "a probe every 99 ms": (probe(every="99ms"), "schema"),
    "a probe every 100 ms": (probe(every="100ms"), None),
    "a probe every hour": (probe(every="1h"), None),
    "a probe every hour and second": (probe(every="1h1s"), "schema"),
    "a probe that waits 0 s": (probe(timeout="0s"), "schema"),
    "a probe that waits 61 s": (probe(timeout="61s"), "schema"),
    "a probe of another kind": (probe(kind="http"), "schema"),
    "a probe that fails at once": (probe(failures=0), "schema"),
    "a probe that fails never": (probe(failures=2**31), "schema"),
    "a probe of port 0": (probe(port=0), "schema"),
    "101 probes": ({"probes": [{"port": number} for number in range(1, MANY + 1)]}, "schema"),
    "failed after 0 s": (failure(after="0s"), "schema"),
    "failed after 1 s": (failure(after="1s"), None),
    "failed after 721 h": (failure(after="721h"), "schema"),
    "failing half way": (failure(outbound="half"), "schema"),
    "forgotten after 0 s": ({"forgetAfter": "0s"}, "schema"),
    "forgotten after 59 s": ({"forgetAfter": "59s"}, "schema"),
    "forgotten after a minute": ({"forgetAfter": "1m"}, None),
    "never forgotten": ({"forgetAfter": "876000h"}, None),
    "forgotten in another age": ({"forgetAfter": "876001h"}, "schema"),
    "forgotten after days": ({"forgetAfter": "7days"}, "schema"),
    "a proxy without threads": ({"proxyCores": 0}, "schema"),
    "a proxy with one thread": ({"proxyCores": 1}, None),
    "a proxy with 1024 threads": ({"proxyCores": 1024}, None),
    "a proxy with 1025 threads": ({"proxyCores": 1025}, "schema"),
    "a proxy with half a thread": ({"proxyCores": 0.5}, "schema"),
    "threads as a text": ({"proxyCores": "2"}, "schema"),
    "a label of exclave": ({"labels": {"exclave.dev/group": "x"}}, "code"),
    "a label's key that is none": ({"labels": {"a b": "x"}}, "code"),
    "a label's value that is none": ({"labels": {"app": "web shop"}}, "schema"),
    "a label's value of 64 characters": ({"labels": {"app": "a" * 64}}, "schema"),
    "101 labels": ({"labels": {f"a{number}": "" for number in range(MANY)}}, "schema"),
}  # fmt: skip
"""For each spec, beside `networks: [10.77.0.0/24]`, who refuses it."""
