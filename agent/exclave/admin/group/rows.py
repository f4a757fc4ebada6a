"""Groups as rows of a table and as lines of a description. Pure."""

from collections.abc import Sequence
from typing import Any

from exclave.admin.member.rows import TITLES as MEMBER_TITLES
from exclave.admin.member.rows import condition_table, is_live, member_row
from exclave.admin.tables import age, table
from exclave.admin.token.checks import TITLES as TOKEN_TITLES
from exclave.admin.token.checks import TokenAccount, token_row
from exclave.api.group import GroupSpec, account_of
from exclave.api.malformed import mapping_in, mappings_in
from exclave.api.member import conditions_of
from exclave.api.names import GROUP_LABEL
from exclave.api.requests import Object
from exclave.kit.formats.times import format_duration

GROUP_TITLES = ("NAME", "ACCOUNT", "PORTS", "NETWORKS", "LIVE", "ACCEPTED", "AGE")


def group_row(group: Object, members: Sequence[Object], now: float, all_namespaces: bool = False) -> list[str]:
    """A row of `group list`. LIVE is the number of live members of all."""
    metadata, spec = group["metadata"], mapping_in(group, "spec")
    networks = spec.get("networks")
    row = [
        metadata["name"],
        account_of(group),
        ",".join(_port_words(port) for port in mappings_in(spec, "ports")),
        ",".join(map(str, networks if isinstance(networks, list) else ())),
        f"{sum(map(is_live, members))}/{len(members)}",
        accepted_words(group),
        age(metadata.get("creationTimestamp"), now),
    ]
    return [str(metadata.get("namespace", "")), *row] if all_namespaces else row


def accepted_words(group: Object) -> str:
    """The controller's verdict in one word."""
    accepted = next((one for one in conditions_of(group) if one.type == "Accepted"), None)
    if accepted is None:
        return "Unknown"
    return "True" if accepted.status else accepted.reason


def group_lines(
    group: Object,
    spec: GroupSpec,
    members: Sequence[Object],
    tokens: Sequence[TokenAccount],
    services: Sequence[Object],
    now: float,
) -> list[tuple[str, str]]:
    """Labels and texts of a description."""
    metadata = group["metadata"]
    labels = [f"{key}={value}" for key, value in sorted({**spec.labels, GROUP_LABEL: metadata["name"]}.items())]
    failure = spec.failure
    member_names = [member["metadata"]["name"] for member in members]
    member_rows = [member_row(member, now) for member in members]
    token_rows = [token_row(token, member_names, now) for token in tokens]
    return [
        ("Name", metadata["name"]),
        ("Namespace", str(metadata.get("namespace", ""))),
        ("Age", age(metadata.get("creationTimestamp"), now)),
        ("Service account", spec.service_account),
        ("Networks", ", ".join(spec.networks)),
        ("Ports", ", ".join(_port_words(vars(port)) for port in spec.ports)),
        ("Labels", ", ".join(labels)),
        ("Certificates", f"valid for {format_duration(spec.certificate_lifetime)}"),
        ("Capture", spec.capture),
        ("Inbound policy", spec.inbound_policy or "the mesh's"),
        ("Probes", ", ".join(f"{probe.kind} {probe.port}" for probe in spec.probes)),
        (
            "On failure",
            f"after {format_duration(failure.after)}: outbound {failure.outbound}, inbound {failure.inbound}",
        ),
        ("Forgotten", f"{format_duration(spec.forget_after)} after the last heartbeat"),
        ("Conditions", condition_table(group)),
        ("Services", ", ".join(service["metadata"]["name"] for service in services)),
        ("Tokens", table(TOKEN_TITLES, token_rows) if token_rows else ""),
        ("Members", table(MEMBER_TITLES, member_rows) if member_rows else ""),
    ]


def broken_lines(group: Object, why: str) -> list[tuple[str, str]]:
    """The description of a group with an invalid spec."""
    metadata = group["metadata"]
    return [
        ("Name", metadata["name"]),
        ("Namespace", str(metadata.get("namespace", ""))),
        ("Spec", f"invalid: {why}"),
        ("Conditions", condition_table(group)),
    ]


def _port_words(port: Any) -> str:
    name, number = port.get("name"), port.get("port")
    words = str(number) if name in (None, "", str(number)) else f"{name}:{number}"
    return f"{words}/opaque" if port.get("opaque") else words
