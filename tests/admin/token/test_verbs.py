"""`token …` against the sandbox's API server; tests/peers runs the same against real ones."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from exclave.admin.objects import Manifest, group_objects
from exclave.admin.token.verbs import (
    TITLES,
    check_access,
    check_size,
    check_uses,
    choose_group,
    choose_token,
    count_used,
    life_warning,
    read_ttl,
    refuse_living,
    server_warnings,
    token_accounts,
    token_notes,
    token_row,
)
from exclave.api.join_token import decode_token
from exclave.api.requests import CONFIG_MAPS, MEMBERS, MERGE_PATCH, NAMESPACES, PODS, SERVICE_ACCOUNTS, path_of
from exclave.cluster.credential import read_token_times
from exclave.errors import ExclaveError, Fault
from exclave_sandbox.pki import make_anchor
from peers.conftest import Server
from support.admin import KUBECTL, Admin, admin_of, put, write_program
from support.mesh import mesh
from support.store import member

SERVER = ("--server", "https://10.9.9.9:6443")
NOT_ACCEPTED_YET = "warning: the controller has not accepted group web yet: check that it runs: kubectl exclave check\n"


@pytest.fixture
def group(server: Server, namespace: str) -> None:
    put(server, group_objects(namespace, "web", {"networks": ["10.0.0.0/8"]}, "exclave"))


def accounts(admin: Admin, namespace: str) -> list[str]:
    """The accounts of machines and tokens."""
    found = admin.kubectl.list(SERVICE_ACCOUNTS, f"{namespace}-vms")
    return [one["metadata"]["name"] for one in found if "." in one["metadata"]["name"]]


@pytest.mark.usefixtures("group")
def test_a_token_is_one_line_and_nothing_else(admin: Admin, namespace: str, server: Server) -> None:
    typed = admin.type("token", "create", "web", "-n", namespace, *SERVER, "--uses", "3", "--ttl", "30m")
    assert typed.code == 0
    assert re.fullmatch(r"exclave1_[-_A-Za-z0-9]+\n", typed.out)
    token = decode_token(typed.out)
    assert (token.servers, token.ca) == (("https://10.9.9.9:6443",), server.ca)
    assert (token.namespace, token.group, len(token.member_names)) == (namespace, "web", 3)
    assert accounts(admin, namespace) == [token.account]
    begin, end = read_token_times(token.token)
    assert end - begin == 1800
    assert typed.out.strip() not in typed.err
    lines = typed.err.removeprefix(NOT_ACCEPTED_YET).splitlines()
    assert lines[0] == f"with the line above up to 3 machines join: group web, namespace {namespace}"
    assert re.fullmatch(r"until \S+Z \(in 30m\); everybody who has the line can use it", lines[1])
    assert lines[2] == "on the machine: sudo exclave join, then paste the line"
    assert lines[3].startswith("Linkerd's settings cannot be read here, so the line does not name the proxy's image: ")
    assert lines[4] == f"to revoke it: kubectl exclave token revoke {token.account[9:14]} -n {namespace}"


IMAGE, DIGEST = "cr.l5d.io/linkerd/proxy:edge-26.8.3", f"sha256:{'0a' * 32}"


@pytest.fixture
def linkerd(server: Server) -> Iterator[None]:
    """Linkerd's configuration, and a pod of its destination component."""
    labels = {"linkerd.io/control-plane-component": "destination"}
    pod = {
        "metadata": {"name": "linkerd-destination-1", "namespace": "linkerd", "labels": labels},
        "spec": {"containers": [{"name": "linkerd-proxy", "image": IMAGE}]},
    }
    config = {
        "metadata": {"name": "linkerd-config", "namespace": "linkerd"},
        "data": {"values": "{clusterDomain: cluster.local, linkerdVersion: edge-26.8.3}"},
    }
    status = {"containerStatuses": [{"name": "linkerd-proxy", "imageID": f"cr.l5d.io/linkerd/proxy@{DIGEST}"}]}
    objects = [
        Manifest(NAMESPACES, None, {"metadata": {"name": "linkerd"}}),
        Manifest(CONFIG_MAPS, "linkerd", config),
        Manifest(PODS, "linkerd", pod),
    ]
    put(server, objects)
    with server.client(server.admin_token) as client:
        path = path_of(PODS, "linkerd", "linkerd-destination-1", "status")
        answer = client.patch(path, json={"status": status}, headers={"Content-Type": MERGE_PATCH})
        assert answer.status_code == 200, answer.text
        yield
        for one in reversed(objects):
            client.delete(path_of(one.resource, one.namespace, one.name))


@pytest.mark.usefixtures("group", "linkerd")
def test_it_names_the_image_that_linkerd_runs(admin: Admin, namespace: str) -> None:
    typed = admin.type("token", "create", "web", "-n", namespace, *SERVER)
    assert decode_token(typed.out).proxy_image == f"{IMAGE}@{DIGEST}"
    assert "proxy's image" not in typed.err


@pytest.mark.usefixtures("group")
def test_json_has_the_line_and_all_its_data(admin: Admin, namespace: str) -> None:
    result = json.loads(admin.type("token", "create", "web", "-n", namespace, *SERVER, "-o", "json").out)
    token = decode_token(result.pop("token"))
    assert result.pop("expires").endswith("Z")
    assert result == {
        "id": token.account[9:14],
        "account": token.account,
        "group": "web",
        "namespace": namespace,
        "uses": 1,
    }


@pytest.mark.usefixtures("group")
def test_yaml_is_the_same_and_a_name_alone_shows_no_line(admin: Admin, namespace: str) -> None:
    asked = ("token", "create", "web", "-n", namespace, *SERVER)
    result = yaml.safe_load(admin.type(*asked, "-o", "yaml").out)
    assert decode_token(result["token"]).account == result["account"]
    named = admin.type(*asked, "-o", "name")
    assert re.fullmatch(r"serviceaccount/web\.join\.[a-z0-9]{5}-1\n", named.out)
    assert "exclave1_" not in named.err
    assert "-o name does not print the line, and it cannot be printed later; -o json prints both\n" in named.err


@pytest.mark.usefixtures("group")
def test_a_measured_limit_of_lifetimes_is_noted(admin: Admin, namespace: str) -> None:
    home = f"{namespace}-controller"
    asked = ("token", "create", "web", "-n", namespace, *SERVER, "--controller-namespace", home)
    assert "lets a token live" not in admin.type(*asked).err
    annotations = {"exclave.dev/credential-life": "86400"}
    admin.kubectl.create(NAMESPACES, None, {"metadata": {"name": home, "annotations": annotations}})
    assert admin.type(*asked).err.splitlines()[-2].startswith("this API server limits the lifetime of tokens to 24h: ")
    admin.kubectl.patch(
        NAMESPACES, None, home, {"metadata": {"annotations": {"exclave.dev/credential-life": "2592000"}}}
    )
    assert "lets a token live" not in admin.type(*asked).err


@pytest.mark.usefixtures("group")
def test_an_address_that_no_machine_reaches_has_a_warning(admin: Admin, namespace: str, server: Server) -> None:
    typed = admin.type("token", "create", "web", "-n", namespace)
    assert decode_token(typed.out).servers == (server.url,)
    assert typed.err.startswith(
        f"warning: {server.url} is an address of this machine only: name one that machines reach with --server\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("db",),
            "exclave: there is no group db in namespace {0}\n"
            "  to do: list the groups: kubectl exclave group list -A; or create it: "
            "kubectl exclave group create db -n {0}\n",
        ),
        (("web", "--ttl", "5m"), "exclave: --ttl: 10m to 24h was expected, found 5m\n"),
        (("web", "--uses", "0"), "exclave: --uses: a number from 1 to 999 was expected, found 0\n"),
        (("web", "--server", "http://a"), "exclave: http://a is no https URL of an API server\n"),
        (("web", "--ca-file", "/nowhere"), "exclave: --ca-file /nowhere: No such file or directory\n"),
        (("web", "--ca-file", "/etc/hostname"), "exclave: the API server's CA is not known: there is no readable one"),
    ],
)
@pytest.mark.usefixtures("group")
def test_a_refused_command_creates_no_account(admin: Admin, namespace: str, arguments: Any, message: str) -> None:
    typed = admin.type("token", "create", *arguments, "-n", namespace)
    assert (typed.code, typed.out) == (2, "")
    assert message.format(namespace) in typed.err
    assert accounts(admin, namespace) == []


@pytest.mark.usefixtures("group")
def test_without_a_token_the_account_is_deleted(admin: Admin, namespace: str, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "kubectl"
    refusal = "Error from server (Forbidden): serviceaccounts is forbidden"
    write_program(program, f'case "$*" in */token*) echo "{refusal}" >&2; exit 1;; esac\nexec {KUBECTL} "$@"')
    typed = admin.type("token", "create", "web", "-n", namespace, *SERVER, search=f"{program.parent}:/usr/bin:/bin")
    assert (typed.code, typed.out) == (24, "")
    assert "exclave: you may not create serviceaccounts/token web.join." in typed.err
    assert accounts(admin, namespace) == []


@pytest.mark.usefixtures("group")
def test_a_shorter_lifetime_is_a_warning_and_the_accounts_expiry(admin: Admin, namespace: str, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "kubectl"
    shorter = f'sed s/86400/3600/ | {KUBECTL} "$@"'
    write_program(program, f'case "$*" in */token*) {shorter}; exit;; esac\nexec {KUBECTL} "$@"')
    typed = admin.type(
        "token", "create", "web", "-n", namespace, *SERVER, "--ttl", "24h",
        search=f"{program.parent}:/usr/bin:/bin",
    )  # fmt: skip
    assert typed.code == 0
    assert "warning: this API server limits the lifetime of tokens: it granted 60m instead of 24h\n" in typed.err
    token = decode_token(typed.out)
    assert token.expires == read_token_times(token.token)[1]
    (account,) = (
        one for one in admin.kubectl.list(SERVICE_ACCOUNTS, f"{namespace}-vms") if "." in one["metadata"]["name"]
    )
    assert f"until {account['metadata']['annotations']['exclave.dev/expires']} (in 60m)" in typed.err


@pytest.mark.usefixtures("group")
def test_tokens_are_listed_with_their_uses(admin: Admin, namespace: str) -> None:
    assert admin.type("token", "list", "-n", namespace) == (0, "", f"no join tokens in namespace {namespace}\n")
    line = admin.type("token", "create", "web", "-n", namespace, *SERVER, "--uses", "2").out
    token = decode_token(line)
    body = member(token.member_names[0])
    body["metadata"]["namespace"] = namespace
    admin.kubectl.create(MEMBERS, namespace, body)
    typed = admin.type("token", "list", "-n", namespace)
    titles, row = (text.split() for text in typed.out.splitlines())
    assert tuple(titles) == TITLES
    assert row[:5] == [token.account[9:14], "web", "2", "1", "in"]
    all_namespaces = admin.type("token", "list", "-A")
    assert any(text.split()[:2] == [namespace, token.account[9:14]] for text in all_namespaces.out.splitlines())


@pytest.mark.usefixtures("group")
def test_revoking_deletes_the_account_and_notes_that_members_stay(admin: Admin, namespace: str) -> None:
    token = decode_token(admin.type("token", "create", "web", "-n", namespace, *SERVER).out)
    token_id = token.account[9:14]
    typed = admin.type("token", "revoke", token_id, "-n", namespace)
    assert typed == (
        0,
        f"token {token_id} of group web revoked\n",
        "within about ten seconds it is refused; machines that joined with it stay members: kubectl exclave member "
        f"list -n {namespace} --group web\n",
    )
    assert accounts(admin, namespace) == []
    again = admin.type("token", "revoke", token_id, "-n", namespace)
    assert (again.code, again.err.splitlines()[0]) == (
        2,
        f"exclave: there is no join token {token_id} in namespace {namespace}",
    )


def old_member(admin: Admin, namespace: str, name: str) -> None:
    """A member whose machine has gone: not live, its account still there."""
    body = member(name)
    body["metadata"]["namespace"] = namespace
    admin.kubectl.create(MEMBERS, namespace, body)
    group, token_id, slot = name.split("-")
    account = {"metadata": {"name": f"{group}.vm.{token_id}-{slot}"}}
    admin.kubectl.create(SERVICE_ACCOUNTS, f"{namespace}-vms", account)


@pytest.mark.usefixtures("group")
def test_a_member_joins_again_by_a_token_for_it_alone(admin: Admin, namespace: str) -> None:
    old_member(admin, namespace, "web-k7q2x-2")
    typed = admin.type("token", "create", "-n", namespace, "--for", "web-k7q2x-2", *SERVER)
    assert typed.code == 0, typed.err
    notes = typed.err.removeprefix(NOT_ACCEPTED_YET).splitlines()
    assert notes[0] == "the former member web-k7q2x-2 and its credential are deleted"
    assert notes[1].startswith("with the line above this machine becomes member web-k7q2x-2 again: group web")
    assert notes[-1] == f"to revoke it: kubectl exclave token revoke k7q2x-2 -n {namespace}"
    assert accounts(admin, namespace) == ["web.rejoin.k7q2x-2"]
    assert admin.kubectl.get(MEMBERS, namespace, "web-k7q2x-2") is None
    again = admin.type("token", "create", "-n", namespace, "--for", "web-k7q2x-2", *SERVER)
    assert again.err.removeprefix(NOT_ACCEPTED_YET).startswith("an earlier token for web-k7q2x-2 is revoked\n")
    assert admin.type("token", "revoke", "k7q2x-2", "-n", namespace).code == 0
    assert accounts(admin, namespace) == []


@pytest.mark.usefixtures("group")
def test_a_token_for_a_live_member_is_refused(admin: Admin, namespace: str) -> None:
    old_member(admin, namespace, "web-k7q2x-2")
    live = {"status": {"conditions": [{"type": "Live", "status": "True"}]}}
    write_status(admin, namespace, "web-k7q2x-2", live)
    typed = admin.type("token", "create", "-n", namespace, "--for", "web-k7q2x-2", *SERVER)
    assert (typed.code, typed.err.removeprefix(NOT_ACCEPTED_YET)) == (
        2,
        "exclave: web-k7q2x-2 is live and needs no token\n  to do: if its machine was replaced, evict it first: "
        f"kubectl exclave member evict web-k7q2x-2 -n {namespace}\n",
    )
    assert accounts(admin, namespace) == ["web.vm.k7q2x-2"]


def write_status(admin: Admin, namespace: str, name: str, body: dict[str, Any]) -> None:
    """What the controller would write."""
    import subprocess

    done = subprocess.run(
        [
            KUBECTL, f"--kubeconfig={admin.kubeconfig}", "patch", "members.v1alpha1.exclave.dev", name,
            f"--namespace={namespace}", "--type=merge", "--subresource=status", f"--patch={json.dumps(body)}",
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


NOW = 7200.0


def account(name: str, expires: str = "1970-01-01T03:00:00Z") -> dict[str, Any]:
    metadata = {"name": name, "creationTimestamp": "1970-01-01T01:00:00Z"}
    return {"metadata": {**metadata, "annotations": {"exclave.dev/expires": expires} if expires else {}}}


ACCOUNTS = token_accounts(
    account(name)
    for name in ("web.join.k7q2x-5", "web.rejoin.k7q2x-2", "db.join.aaaaa-1", "web.vm.k7q2x-1", "default", "a.join.b-1")
)


def test_tokens_are_recognised_by_their_accounts_names() -> None:
    assert [(one.name, one.id, one.group, one.uses, one.member) for one in ACCOUNTS] == [
        ("web.join.k7q2x-5", "k7q2x", "web", 5, ""),
        ("web.rejoin.k7q2x-2", "k7q2x-2", "web", 1, "web-k7q2x-2"),
        ("db.join.aaaaa-1", "aaaaa", "db", 1, ""),
    ]


def test_used_are_the_members_of_its_id() -> None:
    names = ["web-k7q2x-1", "web-k7q2x-2", "web-zzzzz-1", "db-k7q2x-3", "odd"]
    assert [count_used(one, names) for one in ACCOUNTS] == [2, 1, 0]


@pytest.mark.parametrize(
    ("expires", "left"),
    [("1970-01-01T03:00:00Z", "in 60m"), ("1970-01-01T02:00:00Z", "expired"), ("soon", "soon"), ("", "")],
)
def test_a_row_of_token_list(expires: str, left: str) -> None:
    (token,) = token_accounts([account("web.rejoin.k7q2x-2", expires)])
    assert token_row(token, ["web-k7q2x-2"], NOW) == ["k7q2x-2", "web", "1", "1", left, "60m", "web-k7q2x-2"]


def test_a_token_is_named_by_its_id_or_whole() -> None:
    assert choose_token(ACCOUNTS, "k7q2x", "shop").name == "web.join.k7q2x-5"
    assert choose_token(ACCOUNTS, "k7q2x-2", "shop").name == "web.rejoin.k7q2x-2"
    assert choose_token(ACCOUNTS, "db.join.aaaaa-1", "shop").id == "aaaaa"


def test_a_missing_token_is_an_error() -> None:
    with pytest.raises(ExclaveError) as refused:
        choose_token(ACCOUNTS, "zzzzz", "shop")
    assert refused.value.message == "there is no join token zzzzz in namespace shop"
    assert refused.value.hint == "it may have expired; list them: kubectl exclave token list -n shop"


def test_an_id_of_two_groups_is_ambiguous() -> None:
    tokens = token_accounts([account("web.join.k7q2x-5"), account("db.join.k7q2x-1")])
    with pytest.raises(ExclaveError) as refused:
        choose_token(tokens, "k7q2x", "shop")
    assert refused.value.message == "two join tokens have the id k7q2x: web.join.k7q2x-5, db.join.k7q2x-1"
    assert refused.value.hint == "use one of these names"


@pytest.mark.parametrize(("text", "seconds"), [("10m", 600), ("1h", 3600), ("24h", 86400), ("1d", 86400)])
def test_a_lifetime_is_read_in_seconds(text: str, seconds: float) -> None:
    assert read_ttl(text) == seconds


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("9m", "--ttl: 10m to 24h was expected, found 9m"),
        ("25h", "--ttl: 10m to 24h was expected, found 25h"),
        ("long", "--ttl: 'long' is not a duration such as 10s, 5m or 24h"),
    ],
)
def test_a_wrong_lifetime_is_refused(text: str, why: str) -> None:
    with pytest.raises(ExclaveError) as refused:
        read_ttl(text)
    assert (refused.value.fault, refused.value.message) == (Fault.USAGE, why)


@pytest.mark.parametrize("uses", [0, -1, 1000])
def test_a_wrong_number_of_uses_is_refused(uses: int) -> None:
    with pytest.raises(ExclaveError) as refused:
        check_uses(uses)
    assert refused.value.message == f"--uses: a number from 1 to 999 was expected, found {uses}"


def test_the_group_is_named_or_is_the_members() -> None:
    check_uses(999)
    assert choose_group("web", None, 5) == "web"
    assert choose_group(None, "web-api-k7q2x-1", 1) == "web-api"
    assert choose_group("web", "web-k7q2x-1", 1) == "web"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((None, None, 1), "no group was named"),
        (("db", "web-k7q2x-1", 1), "web-k7q2x-1 is a member of group web, not of db"),
        ((None, "web-k7q2x-1", 2), "--for: a token for one member has one use"),
        ((None, "web", 1), "--for: 'web' is not a member's name such as web-k7q2x-1"),
    ],
)
def test_contradicting_options_are_refused(arguments: tuple[str | None, str | None, int], why: str) -> None:
    with pytest.raises(ExclaveError) as refused:
        choose_group(*arguments)
    assert refused.value.message == why


def test_a_live_member_gets_no_token() -> None:
    error = refuse_living("web-k7q2x-1", "shop")
    assert error.message == "web-k7q2x-1 is live and needs no token"
    assert error.hint == (
        "if its machine was replaced, evict it first: kubectl exclave member evict web-k7q2x-1 -n shop"
    )


@pytest.mark.parametrize(
    ("servers", "ca", "why"),
    [
        (["http://10.0.0.1"], mesh().anchor.pem, "http://10.0.0.1 is no https URL of an API server"),
        ([""], mesh().anchor.pem, "the kubeconfig is no https URL of an API server"),
        (["https://10.0.0.1"], "PEM", "the API server's CA is not known: there is no readable one in the kubeconfig"),
    ],
)
def test_an_unusable_api_server_is_refused(servers: list[str], ca: str, why: str) -> None:
    with pytest.raises(ExclaveError) as refused:
        check_access(servers, ca.encode())
    assert refused.value.message == why


BUNDLE = (
    f"# Kommentar: Zürich, 東京\n{mesh().anchor.pem}\nsubject=CN = x\n{make_anchor('other').pem}{mesh().anchor.pem}"
)


@pytest.mark.parametrize(
    "content",
    [
        BUNDLE.encode(),
        BUNDLE.encode("utf-8-sig"),
        BUNDLE.encode("utf-16"),
        BUNDLE.replace("\n", "\r\n").encode(),
        BUNDLE.replace("\n", "  \n  ").encode(),
        BUNDLE.encode() + make_anchor("third").key_pem.encode(),
    ],
    ids=["comments", "byte order mark", "UTF-16", "CRLF", "spaces", "a key"],
)
def test_a_ca_file_as_people_keep_it_gives_its_certificates_alone(content: bytes) -> None:
    found = check_access(["https://10.0.0.1"], content).ca
    assert (found.count("BEGIN CERTIFICATE"), "PRIVATE" in found, "Kommentar" in found) == (2, False, False)
    assert found.startswith(mesh().anchor.pem)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"tls_name": "a/b"}, "tls-server-name: 'a/b' is no name of a server"),
        (
            {"proxy": "socks5://proxy:1080"},
            "proxy-url of the kubeconfig, or --proxy-url, cannot go into a token: a URL such as "
            "http://proxy.example.org:3128 was expected: a proxy that speaks HTTP, found socks5",
        ),
        (
            {"proxy": "http://me:s3cret@proxy:1080"},
            "proxy-url of the kubeconfig, or --proxy-url, cannot go into a token: a URL such as "
            "http://proxy.example.org:3128 was expected, without user and password, which belong into a file: "
            "cluster.proxy_credentials",
        ),
    ],
)
def test_a_way_that_machines_cannot_use_is_refused_by_its_name(more: dict[str, str], why: str) -> None:
    with pytest.raises(ExclaveError) as refused:
        check_access(["https://10.0.0.1"], b"", **more)
    assert refused.value.message == why


def test_a_token_that_would_be_too_large_is_refused() -> None:
    bundle = "".join(make_anchor(f"CA {number}").pem for number in range(150))
    with pytest.raises(ExclaveError) as refused:
        check_size(check_access(["https://10.0.0.1"], bundle.encode()), "shop", "web")
    assert refused.value.message.startswith(
        "the join token would be too large, with 150 certificates of CAs: it would "
    )
    assert "--system-ca" in refused.value.hint
    check_size(check_access(["https://10.0.0.1"], mesh().anchor.pem.encode()), "shop", "web")


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize(
    ("options", "way"),
    [
        ((), ("api.example.org", "http://proxy.example.org:3128", True)),
        (("--proxy-url", "", "--tls-server-name", "b"), ("b", "", True)),
        (("--system-ca",), ("api.example.org", "http://proxy.example.org:3128", False)),
        (("--server", "https://lb.example.org", "--system-ca"), ("", "", False)),
    ],
)
def test_the_kubeconfigs_way_goes_into_the_token(
    server: Server, namespace: str, tmp_path: Path, options: tuple[str, ...], way: tuple[str, str, bool]
) -> None:
    more = {"tls-server-name": "api.example.org", "proxy-url": "http://proxy.example.org:3128"}
    program = tmp_path / "bin" / "kubectl"  # no such proxy is there: only what it prints of the kubeconfig has it
    shown = json.dumps({"clusters": [{"name": "c", "cluster": {"server": server.url, **more}}], "contexts": []})
    (tmp_path / "shown.json").write_text(shown)
    write_program(program, f'case "$*" in *"config view"*) exec cat {tmp_path}/shown.json;; esac\nexec {KUBECTL} "$@"')
    ca = tmp_path / "ca.pem"
    ca.write_text(server.ca)
    named = options if "--system-ca" in options else (*options, "--ca-file", str(ca))
    typed = admin_of(server, tmp_path).type(
        "token", "create", "web", "-n", namespace, *named, search=f"{program.parent}:/usr/bin:/bin"
    )
    assert typed.code == 0, typed.err
    token = decode_token(typed.out)
    assert (token.tls_name, token.proxy, bool(token.ca)) == way


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("https://127.0.0.1:6443", "this machine only"),
        ("https://[::1]:6443", "this machine only"),
        ("https://0.0.0.0:6443", "this machine only"),
        ("https://169.254.1.1", "this link only"),
        ("https://localhost:6443", "this machine or cluster only"),
        ("https://kubernetes.docker.internal:6443", "this machine or cluster only"),
        ("https://kubernetes.default.svc", "the cluster's own network"),
    ],
)
def test_a_local_address_of_the_api_server_has_a_warning(url: str, where: str) -> None:
    assert server_warnings([url, "https://10.0.0.1:6443", "https://api.example.com"]) == [
        f"{url} is an address of {where}: name one that machines reach with --server"
    ]


def test_a_shorter_lifetime_is_a_warning() -> None:
    assert life_warning(3600.0, 3590.0) is None
    assert life_warning(86400.0, 3600.0) == (
        "this API server limits the lifetime of tokens: it granted 60m instead of 24h"
    )


@pytest.mark.parametrize(
    ("member", "uses", "first"),
    [
        (None, 1, "with the line above one machine joins: group web, namespace shop"),
        (None, 20, "with the line above up to 20 machines join: group web, namespace shop"),
        (
            "web-k7q2x-1",
            1,
            "with the line above this machine becomes member web-k7q2x-1 again: group web, namespace shop",
        ),
    ],
)
def test_notes_about_a_new_token(member: str | None, uses: int, first: str) -> None:
    assert token_notes("web", "shop", member, uses, NOW + 3599.6, NOW) == [
        first,
        "until 1970-01-01T02:59:59Z (in 60m); everybody who has the line can use it",
        "on the machine: sudo exclave join, then paste the line",
    ]
