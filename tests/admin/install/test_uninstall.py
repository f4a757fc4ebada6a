"""`uninstall` where members would be stranded; tests/peers uninstalls on real servers."""

from exclave.admin.objects import Manifest
from exclave.api.requests import MEMBERS, NAMESPACES
from peers.conftest import Server
from support.admin import Admin, put
from support.store import member


def test_members_that_would_be_stranded_are_named_and_nothing_is_deleted(
    admin: Admin, namespace: str, server: Server
) -> None:
    body = {"metadata": {"name": namespace}}
    members = [Manifest(MEMBERS, namespace, member(f"web-k7q2x-{number}")) for number in range(1, 8)]
    put(server, [Manifest(NAMESPACES, None, body), *members])
    typed = admin.type("uninstall")
    assert (typed.code, typed.out) == (2, "")
    assert " members would be stranded: " in typed.err
    assert " more; pods would no longer reach them, and their certificates would end\n" in typed.err
    assert all(admin.kubectl.get(MEMBERS, namespace, f"web-k7q2x-{number}") for number in range(1, 8))
    for number in range(1, 8):
        admin.kubectl.delete(MEMBERS, namespace, f"web-k7q2x-{number}")
