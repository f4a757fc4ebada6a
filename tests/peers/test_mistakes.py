"""What an admin does with bare kubectl, or in a hurry, and what becomes of the machines: with guard and controller.

Roles that were edited are in test_installing, with `check` and `upgrade`, which find them and put them right.
"""

import base64
import time
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from exclave.api.join_token import encode_token
from exclave.api.member import Condition, condition_of, read_conditions
from exclave.api.names import parse_member_name
from exclave.api.requests import (
    CONFIG_MAPS,
    EXTERNAL_WORKLOADS,
    MEMBERS,
    SECRETS,
    SERVICE_ACCOUNTS,
    WORKLOAD_GROUPS,
    Object,
    create,
    delete,
    get,
    list_all,
    patch,
)
from exclave.cluster.client import open_cluster
from exclave.cluster.credential import parse_credential
from exclave.errors import ApiRefusal, ExclaveError, Fault
from exclave.join.join import join
from exclave.kit.formats.x509 import pem_of
from exclave_sandbox.pki import make_issuer
from exclave_sandbox.stage.mesh import NAMESPACE
from peers.conftest import Server
from peers.kubernetes import AVAILABLE
from support.admin import Admin, admin_of
from support.issuers import with_extension

from .test_admin import typed, until_accepted
from .test_joining import guarded, machine, until_dead, wait

pytestmark = pytest.mark.parametrize("server", AVAILABLE[:1], indirect=True)

GROUP = ("--network", "10.77.0.0/16", "--port", "8080")


@pytest.fixture
def typist(server: Server, tmp_path: Path) -> Admin:
    return admin_of(server, tmp_path)


def accepted(group: Object | None) -> Condition | None:
    conditions = read_conditions(((group or {}).get("status") or {}).get("conditions"))
    return next((one for one in conditions if one.type == "Accepted"), None)


async def test_a_machines_account_that_is_deleted_and_made_again_gives_no_old_credential_back(
    server: Server, tmp_path: Path
) -> None:
    async with guarded(server, tmp_path) as cluster:
        config, token_id = machine(tmp_path)
        token = encode_token(await cluster.join_token(token_id=token_id))
        record = await join(token, config, time.time, lambda _: None)
        own = parse_credential((config.paths.state / "credential.json").read_text())
        account = parse_member_name(record.member).account
        await cluster.admin.send(delete(SERVICE_ACCOUNTS, "shop-vms", account))
        await cluster.admin.send(create(SERVICE_ACCOUNTS, "shop-vms", {"metadata": {"name": account}}))
        async with open_cluster(cluster.api.access, lambda: own.token) as credential:
            await until_dead(lambda: credential.send(get(MEMBERS, NAMESPACE, record.member)))
            with pytest.raises(ApiRefusal) as refused:
                await credential.send(get(MEMBERS, NAMESPACE, record.member))
        assert refused.value.status == 401
        # Nobody else has been hurt: the member is one still, and its certificate serves until it ends.
        member = await cluster.find(MEMBERS, record.member)
        assert member is not None
        assert "deletionTimestamp" not in member["metadata"]
        assert await cluster.find(EXTERNAL_WORKLOADS, record.member) is not None
        # What has to be done: a token for this member alone, once its old self is out of the way.
        await cluster.admin.send(delete(MEMBERS, NAMESPACE, record.member))
        await wait(cluster, MEMBERS, record.member, lambda found: found is None)
        again, _ = machine(tmp_path / "again")
        back = await join(encode_token(await cluster.rejoin_token(record.member)), again, time.time, lambda _: None)
        assert back.member == record.member
        await cluster.admin.send(delete(MEMBERS, NAMESPACE, record.member))
        await wait(cluster, MEMBERS, record.member, lambda found: found is None)


async def test_two_groups_of_one_account_are_warned_of_and_the_second_takes_nobody(
    server: Server, typist: Admin, tmp_path: Path
) -> None:
    async with guarded(server, tmp_path) as cluster:
        assert (await typed(typist, "group", "create", "first", "-n", NAMESPACE, *GROUP)).code == 0
        await until_accepted(cluster, "first")
        second = await typed(typist, "group", "create", "second", "-n", NAMESPACE, *GROUP, "--service-account", "first")
        assert "warning: groups second and first share ServiceAccount first: policies cannot tell" in second.err
        await wait(cluster, WORKLOAD_GROUPS, "second", lambda found: accepted(found) is not None)
        refusal = accepted(await cluster.find(WORKLOAD_GROUPS, "second"))
        assert refusal is not None
        assert (refusal.status, refusal.reason) == (False, "AccountShared")
        created = await typed(typist, "token", "create", "second", "-n", NAMESPACE)
        assert "warning: the controller does not accept group second and admits no machine to it" in created.err
        config, _ = machine(tmp_path)
        with pytest.raises(ExclaveError) as refused:
            await join(created.out, config, time.time, lambda _: None)
        assert refused.value.fault in (Fault.GROUP_GONE, Fault.NOT_ADMITTED)
        assert "two groups with one identity would be one" in refused.value.message
        first = accepted(await cluster.find(WORKLOAD_GROUPS, "first"))
        assert first is not None
        assert first.status, "the older one keeps its identity"
        for name in ("second", "first"):
            assert (await typed(typist, "group", "delete", name, "-n", NAMESPACE, "--evict-members")).code == 0


async def test_a_group_in_use_that_is_deleted_with_kubectl_goes_when_its_members_have_gone(
    server: Server, typist: Admin, tmp_path: Path
) -> None:
    async with guarded(server, tmp_path) as cluster:
        assert (await typed(typist, "group", "create", "used", "-n", NAMESPACE, *GROUP)).code == 0
        await until_accepted(cluster, "used")
        config, _ = machine(tmp_path)
        spare = (await typed(typist, "token", "create", "used", "-n", NAMESPACE)).out
        line = (await typed(typist, "token", "create", "used", "-n", NAMESPACE)).out
        record = await join(line, config, time.time, lambda _: None)
        await cluster.admin.send(delete(WORKLOAD_GROUPS, NAMESPACE, "used"))
        await wait(cluster, WORKLOAD_GROUPS, "used", lambda found: says(found, "Deleting"))
        left = accepted(await cluster.find(WORKLOAD_GROUPS, "used"))
        assert left is not None
        assert "it goes when its members have gone: 1 left" in left.message
        member = await cluster.find(MEMBERS, record.member)
        assert member is not None
        assert "deletionTimestamp" not in member["metadata"]
        newcomer, _ = machine(tmp_path / "newcomer")
        with pytest.raises(ExclaveError) as refused:
            await join(spare, newcomer, time.time, lambda _: None)
        assert "it goes when its members have gone" in refused.value.message
        for one in (await cluster.admin.send(list_all(MEMBERS, NAMESPACE)))["items"]:
            if one["metadata"]["name"].startswith("used-"):
                await cluster.admin.send(delete(MEMBERS, NAMESPACE, one["metadata"]["name"]))
        await wait(cluster, WORKLOAD_GROUPS, "used", lambda found: found is None)
        assert await cluster.find(EXTERNAL_WORKLOADS, record.member) is None


def says(found: Object | None, reason: str) -> bool:
    condition = accepted(found)
    return condition is not None and condition.reason == reason


async def test_a_bad_issuer_and_a_wrong_key_of_linkerds_settings_are_named_and_stop_no_join(
    server: Server, tmp_path: Path, typist: Admin
) -> None:
    async with guarded(server, tmp_path) as cluster:
        made, anchor = make_issuer(cluster.mesh.anchor), cluster.mesh.anchor.key
        for_code = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
        bad = pem_of(with_extension(made.certificate, for_code, anchor))
        secret = await cluster.find(SECRETS, "exclave-issuer", "exclave")
        config = await cluster.find(CONFIG_MAPS, "linkerd-config", "linkerd")
        assert secret is not None and config is not None
        values = yaml.safe_load(config["data"]["values"])
        values["proxy"] |= {"opaquePorts": [25, "mysql"]}
        texts = dict.fromkeys(secret["data"]) | {"tls.crt": bad, "tls.key": made.key_pem}
        data = {name: text and base64.b64encode(text.encode()).decode() for name, text in texts.items()}
        try:
            await cluster.admin.send(patch(SECRETS, "exclave", "exclave-issuer", {"data": data}))
            wrong = {"data": {"values": yaml.safe_dump(values)}}
            await cluster.admin.send(patch(CONFIG_MAPS, "linkerd", "linkerd-config", wrong))
            await wait(cluster, WORKLOAD_GROUPS, "web", lambda found: "CN=" in fault_of(found, "opaquePorts"))
            settings, token_id = machine(tmp_path)
            token = encode_token(await cluster.join_token(token_id=token_id))
            assert (await join(token, settings, time.time, lambda _: None)).member == f"web-{token_id}-1"
            checked = await typed(typist, "check", "-o", "json")
            assert "values.proxy.opaquePorts: a text with commas was expected, found list" in checked.out
            assert "is not for both TLS servers and TLS clients (extended key usage)" in checked.out
        finally:
            former = dict.fromkeys(data) | secret["data"]
            await cluster.admin.send(patch(SECRETS, "exclave", "exclave-issuer", {"data": former}))
            await cluster.admin.send(patch(CONFIG_MAPS, "linkerd", "linkerd-config", {"data": config["data"]}))
        await wait(cluster, WORKLOAD_GROUPS, "web", lambda found: is_current(found))


def fault_of(group: Object | None, key: str) -> str:
    """The message of condition MeshCurrent if it names this key, else ""."""
    found = condition_of(group or {}, "MeshCurrent")
    return found.message if found is not None and not found.status and key in found.message else ""


def is_current(group: Object | None) -> bool:
    found = condition_of(group or {}, "MeshCurrent")
    return found is not None and found.status
