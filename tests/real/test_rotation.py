"""Trust anchors rotated by Linkerd's own procedure, with the real Linkerd and three members under load.

`rotation status` is the gate of every step. Pods are restarted between the steps, as the procedure demands, and have no
traffic meanwhile: what is measured is what machines do.
"""

import base64
import json
from datetime import timedelta
from functools import partial
from operator import eq
from pathlib import Path

import trio

from exclave.api.names import SETTINGS_KEY, settings_name
from exclave.api.requests import CONFIG_MAPS, SECRETS, get, patch
from exclave.kit.formats.x509 import fingerprint
from exclave.kit.host.files import write_atomic
from exclave_sandbox.expect import eventually
from exclave_sandbox.linkerd.release import LinkerdBinaries
from exclave_sandbox.pki import Authority, make_anchor, make_issuer
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.real_linkerd import is_proxy_ready
from exclave_sandbox.stage.stage import DemoStage
from real.mesh import PATIENCE, STEADY, open_loads, open_mesh, open_more_members
from support.admin import Admin, Typed

ANCHORS = "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS"


async def publish(stage: DemoStage, anchors: str) -> None:
    body = {"data": {"ca-bundle.crt": anchors}}
    await stage.admin.send(patch(CONFIG_MAPS, mesh.LINKERD, "linkerd-identity-trust-roots", body))


async def put_issuer(stage: DemoStage, issuer: Authority) -> None:
    """As cert-manager does: the Secret of exclave's controller, and the files of each identity controller.

    Then renew all certificates, which would last for a day.
    """
    files = {"crt.pem": issuer.pem, "key.pem": issuer.key_pem}
    data = {name: base64.b64encode(text.encode()).decode() for name, text in files.items()}
    await stage.admin.send(patch(SECRETS, "exclave", "exclave-issuer", {"data": data}))
    for folder in stage.scratch.glob("linkerd-identity-*/linkerd/identity/issuer"):
        for name, text in files.items():
            write_atomic(folder / name, text.encode())
            (folder / name).chmod(0o644)
        (folder / "..data").unlink(missing_ok=True)
        (folder / "..data").touch()  # a kubelet replaces this link, which the identity controller watches
    await eventually(
        "the issuer in the settings", partial(issuer_of_settings, stage), partial(eq, fingerprint(issuer.certificate))
    )
    typed = await type_command(stage, "member", "renew", "--group", mesh.GROUP, "-n", mesh.NAMESPACE)
    assert typed.code == 0, typed.err


async def issuer_of_settings(stage: DemoStage) -> object:
    found = await stage.admin.send(get(CONFIG_MAPS, mesh.NAMESPACE, settings_name(mesh.GROUP)))
    return json.loads(found["data"][SETTINGS_KEY])["issuer"]


async def restart_pods(stage: DemoStage, anchors: str) -> None:
    """Start the proxies of all pods again, with these anchors."""
    assert stage.pod_proxy is not None
    for machine, program in ((None, stage.linkerd["proxy"]), (stage.pod, stage.pod_proxy)):
        await program.end()
        program.environment = {**program.environment, ANCHORS: anchors}
        program.start()
        await eventually("the proxy of a pod", partial(is_proxy_ready, machine), bool)


async def type_command(stage: DemoStage, *words: str) -> Typed:
    return await trio.to_thread.run_sync(partial(Admin(Path(stage.scratch, "kubeconfig")).type, *words))


async def until_open(stage: DemoStage) -> str:
    """Wait until every gate of `rotation status` is open. Its last line."""
    typed = await type_command(stage, "rotation", "status")
    with trio.move_on_after(PATIENCE):
        while typed.code == 3:
            await trio.sleep(0.5)
            typed = await type_command(stage, "rotation", "status")
    assert typed.code == 0, typed.err
    return typed.err.splitlines()[-1]


async def test_no_request_fails_while_anchors_are_rotated(release: LinkerdBinaries) -> None:
    failures = {}
    async with open_mesh(release) as stage, open_more_members(stage, 2):
        anchor = make_anchor("the next root", lifetime=timedelta(days=7300))  # the new one is the one that begins later
        issuer = make_issuer(anchor)
        both = Path(stage.scratch, "linkerd-anchor.pem").read_text() + anchor.pem
        steps = {
            "both anchors": (partial(publish, stage, both), "you can install an issuer under anchor"),
            "the new issuer": (partial(put_issuer, stage, issuer), "you can remove anchor"),
            "the new anchor alone": (partial(publish, stage, anchor.pem), "no rotation is in progress"),
        }
        assert (await until_open(stage)).endswith("no rotation is in progress")
        for name, (step, verdict) in steps.items():
            async with open_loads(stage, f"rotation with 3 members, {name}") as loads:
                await trio.sleep(STEADY)
                await step()
                await trio.sleep(4 * STEADY)
            # An old proxy serves pods as long as they send requests, and has loaded nothing new.
            assert verdict in await until_open(stage)
            if loads.failures:
                failures[name] = loads.failures
            await restart_pods(stage, both)
    assert not failures
