"""`rotation status` with nothing to compare with; its gates are tried in test_rotation_rows and in tests/peers."""

from support.admin import Admin


def test_a_cluster_without_settings_says_so_and_what_to_look_at(admin: Admin) -> None:
    typed = admin.type("rotation", "status")
    assert (typed.code, typed.out) == (23, "")
    assert typed.err == (
        "exclave: no group has settings yet, so there is nothing to compare members with\n"
        "  to do: see that the controller runs: kubectl exclave check\n"
    )
