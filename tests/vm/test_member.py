"""A machine joins with one line; requests pass both ways under mutual TLS."""

import json
from dataclasses import replace

import pytest

from exclave.api.join_token import decode_token, encode_token
from exclave_sandbox.demo.membership import identity_of
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.stage import fetch
from support.figures import add_figure
from vm.lab import (
    CONFIG,
    HERE,
    POD_BY_ADDRESS,
    POD_BY_SERVICE,
    PROXY,
    STAND_IN,
    Installed,
    fetch_inside,
    open_lab,
    state_of,
)

pytestmark = [pytest.mark.vm, pytest.mark.part, pytest.mark.timeout(1200)]


async def test_a_machine_joins_and_serves_both_ways(installed: Installed) -> None:
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        await machine.boot()
        assert await state_of(machine) == "unjoined"
        took = await lab.join(machine)
        add_figure(
            f"{installed.debian}: joined and ready in {took:.1f} s; "
            f"install to meshed in {installed.seconds + took:.1f} s"
        )
        assert await state_of(machine) == "ready"
        inbound = await fetch(lab.stage.pod, f"http://{machine.address}:{mesh.GROUP_PORT}/")
        assert inbound["client_id"] == identity_of(mesh.POD_NAME)
        for url in (POD_BY_ADDRESS, POD_BY_SERVICE):
            assert (await fetch_inside(machine, url))["client_id"] == identity_of(mesh.GROUP)


REGISTRY = """\
[Unit]
Description=a registry of a test
Before=exclave-join.service

[Service]
ExecStart=/usr/bin/python3 -IB /opt/registry/registry.py /root/linkerd2-proxy
"""


async def test_a_machine_of_an_image_installs_the_proxy_that_its_token_names(installed: Installed) -> None:
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        (machine.root / PROXY.lstrip("/")).unlink()
        machine.write("/root/linkerd2-proxy", STAND_IN)
        machine.copy(HERE / "inside/registry.py", "/opt/registry/registry.py")
        machine.copy(HERE.parent / "support/registry.py", "/opt/registry/support/registry.py")
        machine.write("/etc/systemd/system/registry.service", REGISTRY)
        wants = machine.root / "etc/systemd/system/multi-user.target.wants"
        (wants / "registry.service").symlink_to("/etc/systemd/system/registry.service")
        machine.write("/etc/exclave/config.toml", CONFIG.replace("[proxy]", '[proxy]\nmirror = "127.0.0.1:5000"'))
        token = replace(decode_token(await lab.token()), proxy_image="cr.l5d.io/linkerd/proxy:v1")
        machine.write("/etc/credstore/exclave.join-token", encode_token(token), 0o600)
        await machine.boot()
        await lab.wait_ready(machine)
        (proxy,) = json.loads(await machine.must("exclave", "proxy", "list", "--json"))
        assert proxy["used"]
        assert proxy["source"].startswith("127.0.0.1:5000/linkerd/proxy:v1@sha256:")
        assert (await fetch_inside(machine, POD_BY_ADDRESS))["client_id"] == identity_of(mesh.GROUP)
