"""`rotation status` with nothing to compare with; its gates are tried in test_rotation_rows and in tests/peers."""

from support.admin import Admin


def test_missing_anchors_are_an_error_with_the_option_to_use(admin: Admin) -> None:
    typed = admin.type("rotation", "status", "-L", "nowhere")
    assert (typed.code, typed.out) == (23, "")
    assert typed.err == (
        "exclave: Linkerd's trust anchors cannot be read in namespace nowhere: ConfigMap linkerd-identity-trust-roots: "
        "a certificate in PEM was expected, found none\n"
        "  to do: name Linkerd's namespace: --linkerd-namespace\n"
    )
