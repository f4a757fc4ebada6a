"""The proxy's part of an agent as a program: real Workload API, real `open_proxy`, a mesh whose keys it makes itself.

    python agent.py FOLDER BINARY USER DRAIN ACTIVE POLICY

FOLDER is the runtime folder, DRAIN are seconds, ACTIVE is where rules point, "" for nowhere, POLICY the group's
inbound policy, "" for the mesh's. It prints one JSON line
whenever something changes, and reads one word a line: `rotate` (a new certificate), `retell` (settings that mean
another environment), `leave`, `stop`, `hand-over`, `rules a`, `standby`, `choose b`, `retire a`, `dismiss a`. It runs
in a network namespace of its own, whose `lo` gets the private link's addresses.
"""

import json
import logging
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "agent"), str(TOP / "tests")]

import trio  # noqa: E402
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: E402

from exclave.api.settings import Settings  # noqa: E402
from exclave.config import ProxyConfig  # noqa: E402
from exclave.ending import Ending, EndingSwitch  # noqa: E402
from exclave.errors import HostError  # noqa: E402
from exclave.identity.svid import Svid, check_svid  # noqa: E402
from exclave.kit.tasks.latest import Latest, open_any_change  # noqa: E402
from exclave.link.layout import Instance, dns_address, instance_address  # noqa: E402
from exclave.proxy.instance import Proxy, open_proxy  # noqa: E402
from exclave.proxy.probe import leaf_not_after  # noqa: E402
from exclave.proxy.process.binary import find_proxy_user  # noqa: E402
from exclave.workload_api.server import open_workload_api  # noqa: E402
from exclave_sandbox.pki import Authority, make_anchor, make_issuer, make_leaf  # noqa: E402
from support.mesh import ADDRESS, RECORD, VIP, make_settings  # noqa: E402


class Keys:
    """The mesh's keys. The anchor stands beside the runtime folder, so that the next agent has the same mesh."""

    def __init__(self, runtime: Path) -> None:
        kept = runtime.parent / "anchor.pem"
        if not kept.exists():
            made = make_anchor()
            kept.write_text(made.key_pem + made.pem)
        key = load_pem_private_key(kept.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self.anchor = Authority(x509.load_pem_x509_certificate(kept.read_bytes()), key)
        self.issuer = make_issuer(self.anchor)
        self.settings = make_settings(self.anchor.pem)
        self.signed = 0

    def sign(self) -> Svid:
        """A certificate as the controller would sign it; each ends at another second."""
        identity = self.settings.identity
        names = [x509.DNSName(identity.dns_name), x509.UniformResourceIdentifier(identity.spiffe_id)]
        self.signed += 1
        leaf: Authority = make_leaf(self.issuer, names, timedelta(seconds=3600 + 60 * self.signed), RECORD.member)
        return check_svid(leaf.pem + self.issuer.pem, leaf.key, self.anchor.pem, identity, time.time())


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


async def show(proxy: Proxy, keys: Keys, svid: Latest[Svid | None]) -> None:
    """One line a change; several at once are one."""
    async with open_any_change(
        svid, proxy.instances, proxy.chosen, proxy.ready, proxy.outdated, proxy.problem
    ) as change:
        async for _ in change.wakes():
            assert svid.value is not None
            ours = leaf_not_after(svid.value)
            say(
                instances={
                    name: {
                        "state": view.state.word,
                        "pid": view.pid,
                        "adopted": view.is_adopted,
                        "certified": view.certificate_expires == ours,
                        "ready": view.is_ready,
                    }
                    for name, view in proxy.instances.value.items()
                },
                signed=keys.signed,
                ready=proxy.ready.value,
                chosen=proxy.chosen.value,
                outdated=sorted(difference.value for difference in proxy.outdated.value),
                problem=proxy.problem.value,
                version=proxy.version,
                starts=sum(proxy.starts.values()),
            )


async def obey(proxy: Proxy, keys: Keys, svid: Latest[Svid | None], settings: Latest[Settings | None]) -> Ending:
    """Carry out words from standard input until one says how to end."""
    text = ""
    async with trio.lowlevel.FdStream(0) as words:
        async for piece in words:
            *lines, text = (text + piece.decode()).split("\n")
            for line in lines:
                word, _, argument = line.partition(" ")
                if word == "rotate":
                    svid.set(keys.sign())
                elif word == "retell":
                    group = replace(keys.settings.group, inbound_policy="deny")
                    settings.set(replace(keys.settings, group=group))
                elif word == "rules":
                    proxy.observe_rules(None if argument == "none" else argument)  # type: ignore[arg-type]
                elif word == "standby":
                    try:
                        await proxy.start()
                    except HostError as problem:
                        say(refused=problem.message)
                elif word in ("choose", "retire", "dismiss"):
                    getattr(proxy, word)(argument)
                else:
                    return Ending(word)
    return Ending.HAND_OVER


async def run(runtime: Path, config: ProxyConfig, active: Instance | None, policy: str | None) -> None:
    keys, endings = Keys(runtime), EndingSwitch()
    keys.settings = replace(keys.settings, group=replace(keys.settings.group, inbound_policy=policy))
    svid, settings = Latest[Svid | None](keys.sign()), Latest[Settings | None](keys.settings)
    membership = SimpleNamespace(settings=settings, record=RECORD, captured=Latest((ADDRESS, VIP)))
    uids = frozenset({(await find_proxy_user(config.user)).uid})
    async with open_workload_api(runtime / "workload.sock", svid, lambda: (), uids) as api:
        async with open_proxy(
            config,
            runtime,
            membership,  # type: ignore[arg-type]
            SimpleNamespace(svid=svid),  # type: ignore[arg-type]
            api.path,
            dns_address(),
            active,
            endings,
            time.time,
        ) as proxy:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(show, proxy, keys, svid)
                endings.ask_nowait(await obey(proxy, keys, svid, settings))
                nursery.cancel_scope.cancel()
    say(ended=endings.value.value)


def link() -> None:
    """The private link's addresses, on lo."""
    addresses = [f"{address}/32" for address in (instance_address("a"), instance_address("b"), dns_address(), ADDRESS)]
    for address in addresses:
        subprocess.run(["ip", "address", "replace", address, "dev", "lo"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def main() -> int:
    runtime, binary, user, drain, active, policy = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    link()
    config = ProxyConfig(Path(binary), user, "info", float(drain))
    try:
        trio.run(run, Path(runtime), config, active or None, policy or None, strict_exception_groups=True)
    except HostError as problem:
        say(error=problem.fault.word, message=problem.message, hint=problem.hint)
        return problem.fault.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
