"""`rotation status` with nothing to compare with; its gates are tried in test_rotation_rows and in tests/peers."""

from support.admin import Admin


def test_a_cluster_without_linkerds_anchors_says_so_and_what_to_name(admin: Admin) -> None:
    typed = admin.type("rotation", "status", "-L", "nowhere")
    assert (typed.code, typed.out) == (23, "")
    assert typed.err == (
        "exclave: Linkerd's trust anchors cannot be read in namespace nowhere: ConfigMap linkerd-identity-trust-roots: "
        "a certificate in PEM was expected, found none\n"
        "  to do: name Linkerd's namespace: --linkerd-namespace\n"
    )
