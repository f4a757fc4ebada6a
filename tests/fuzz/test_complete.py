"""Each function that parses has a fuzz target, or a reason why it needs none."""

import ast

from architecture.tree import MODULES
from fuzz.test_targets import TARGETS

WORDS = ("parse_", "read_", "decode_", "load_", "split_")
"""The first words of the names of functions that parse."""

WITHOUT_TARGET = {
    "exclave.admin.arguments.load_file": "reads a file and parses nothing of it",
    "exclave.admin.arguments.load_pem": "reads a file and parses nothing of it",
    "exclave.admin.arguments.parse_groups": "splits an admin's own options at commas",
    "exclave.admin.objects.read_installation": "reads the Deployment that exclave itself has written",
    "exclave.admin.token.verbs.read_ttl": "reads a duration by parse_duration, and compares it",
    "exclave.api.malformed.read_each": "calls a reader for each object, and reports what that raises",
    "exclave.cli.token_source.read_token": "reads the line that decode_token parses",
    "exclave.cluster.member_cluster.load_credential": "reads the file that parse_credential parses",
    "exclave.config.load_config": "reads the file that parse_config parses",
    "exclave.explain.kernel_state.read_addresses": "reads addresses that the kernel lists",
    "exclave.explain.trace.read_events": "receives the messages that parse_events parses",
    "exclave.host_check.other_meshes.parse_chains": "reads the names in a listing that nft has just printed",
    "exclave.join.refusals.read_refusal": "looks at a Member that view_member has read",
    "exclave.kit.host.procfs.read_boot_id": "reads a line that the kernel wrote",
    "exclave.kit.host.procfs.read_tcp_tables": "reads the text that read_sockets parses",
    "exclave.proxy.process.systemd.parse_state": "reads lines that systemctl prints about our own units",
    "exclave_sandbox.standin.controllers.read_resolv_conf": "reads a file and parses nothing of it",
    "exclave_sandbox.standin.wire.read_original": "reads an address that the kernel wrote",
}
"""The reason for each."""


def parsers() -> set[str]:
    """The public functions without `async` whose names begin with these words."""
    return {
        f"{name}.{node.name}"
        for name, module in MODULES.items()
        for node in module.tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith(WORDS)
    }


def test_every_parser_has_a_target_or_a_reason() -> None:
    covered = {f"{one.__module__}.{one.__qualname__}" for target in TARGETS for one in target.covers}
    assert parsers() - covered == set(WITHOUT_TARGET), "write a target in tests/fuzz, or a reason here"
    assert not covered & set(WITHOUT_TARGET)
