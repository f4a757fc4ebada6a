"""The proxy on a booted machine, under its unit: requests pass both ways under mutual TLS, also while it is swapped.

EXCLAVE_LINKERD2_PROXY names the binary of linkerd2-proxy. Without it, the stand-in of the other rows runs.
"""

import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from exclave.api.requests import SECRETS, get
from exclave.kit.tasks.nursery import shielded
from exclave_sandbox.demo.membership import identity_of
from exclave_sandbox.pki import Authority
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.namespaces import UPLINK
from support.figures import add_figure
from support.linkerd_controllers import controllers_command, write_certificate
from vm.lab import POD_BY_ADDRESS, PROXY, Installed, Lab, client_of, fetch_inside, open_lab, status_of
from vm.traffic import open_load, read_line

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1200)]

NAMED = os.environ.get("EXCLAVE_LINKERD2_PROXY", "")

CONTROLLERS = "10.42.0.3"
POD = f"{mesh.POD}:{mesh.POD_PORT}"

# The machine's proxy reaches controllers that speak gRPC where the pod's stand-in has its own.
REDIRECT = f"""\
table ip controllers {{
    chain prerouting {{
        type nat hook prerouting priority dstnat
        ip saddr {mesh.VM_NETWORK} ip daddr {mesh.CONTROL_PLANE} tcp dport {{ 8086, 8090 }} dnat to {CONTROLLERS}
    }}
}}
"""


@asynccontextmanager
async def open_controllers(lab: Lab) -> AsyncIterator[None]:
    """Controllers for a real proxy in the machines, which know the pod."""
    secret = (await lab.stage.admin.send(get(SECRETS, "exclave", "exclave-issuer")))["data"]
    certificate, key = (base64.b64decode(secret[name]) for name in ("crt.pem", "key.pem"))
    signer = load_pem_private_key(key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    issuer = Authority(x509.load_pem_x509_certificate(certificate), signer)
    files = write_certificate(issuer, lab.stage.scratch)
    await trio.run_process(["ip", "address", "add", f"{CONTROLLERS}/16", "dev", UPLINK])
    await trio.run_process(["nft", "-f", "-"], stdin=REDIRECT.encode())
    words = controllers_command(CONTROLLERS, "all-unauthenticated", *files, POD, identity_of(mesh.POD_NAME))
    program = await trio.lowlevel.open_process(words, stdin=PIPE, stdout=PIPE)
    assert program.stdout is not None
    try:
        assert await read_line(program.stdout) == b"up\n"
        yield
    finally:
        with shielded(60.0):
            program.kill()
            await program.wait()
            await trio.run_process(["nft", "delete", "table", "ip", "controllers"])


async def test_the_proxy_serves_both_ways_and_is_swapped_under_load(installed: Installed) -> None:
    proxy = "linkerd2-proxy" if NAMED else "the stand-in for linkerd2-proxy (EXCLAVE_LINKERD2_PROXY is not set)"
    async with open_lab(installed) as lab, open_controllers(lab), lab.open_machine() as machine:
        if NAMED:
            machine.copy(Path(NAMED), PROXY, 0o755)
        await machine.boot()
        await lab.join(machine)
        assert await client_of(lab, machine) == identity_of(mesh.POD_NAME)
        assert (await fetch_inside(machine, POD_BY_ADDRESS))["client_id"] == identity_of(mesh.GROUP)
        async with open_load(lab.stage, machine) as load:
            await load.more(40)
            before, active = await load.figures(), (await status_of(machine))["proxy"]["active"]
            await machine.must("exclave", "proxy", "swap")
            await load.more(100)
            assert (await status_of(machine))["proxy"]["active"] != active
            for way, counts in (await load.since(before)).items():
                add_figure(f"{installed.debian}: {proxy} is swapped: {way}: {counts}")
                assert (counts.failed, counts.plain) == (0, 0), counts
