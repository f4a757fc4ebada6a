"""Members as an admin sees them."""

from typing import Any

import pytest

from exclave.admin.member.rows import (
    TITLES,
    certificate_words,
    condition_table,
    event_table,
    group_of,
    in_group,
    is_live,
    member_lines,
    member_row,
    notes,
    workload_words,
)
from exclave.api.member import view_member

NOW = 7200.0
ONE_HOUR = "1970-01-01T01:00:00Z"
ADMITTED = {"type": "Admitted", "status": "True", "reason": "Admitted", "message": "a member of group web"}
LIVE = {"type": "Live", "status": "True", "reason": "HeartbeatsArrive", "message": "its Lease is being renewed"}


def member(*conditions: dict[str, str], name: str = "web-k7q2x-1", **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": ONE_HOUR, **metadata},
        "spec": {
            "addresses": ["10.0.0.5"],
            "serving": True,
            "dataPath": "meshed",
            "machineHash": "0123456789abcdef",
            "facts": {"zone": "a", "kernel": "6.1"},
            "loaded": {"agent": "0.1", "settings": "ab" * 32},
        },
        "status": {
            "conditions": list(conditions),
            "certificate": {"csrSha256": "a" * 64, "chain": "PEM", "notAfter": "1970-01-02T00:00:00Z"},
            "issued": [{"serial": "1f", "keySha256": "cd" * 32, "time": ONE_HOUR}],
        },
    }


def test_a_row_shows_the_members_status() -> None:
    row = dict(zip(TITLES, member_row(member(ADMITTED, LIVE), NOW), strict=True))
    assert row == {
        "NAMESPACE": "shop",
        "NAME": "web-k7q2x-1",
        "GROUP": "web",
        "ADDRESS": "10.0.0.5",
        "LIVE": "True",
        "SERVING": "True",
        "DATA-PATH": "meshed",
        "CERTIFICATE-UNTIL": "1970-01-02T00:00:00Z",
        "AGENT": "0.1",
        "AGE": "60m",
        "NOTE": "-",
    }


def test_a_member_without_a_status_has_a_row() -> None:
    row = member_row({"metadata": {"name": "odd"}}, NOW)
    assert row == ["", "odd", "", "", "Unknown", "False", "", "", "", "<unknown>", "not admitted yet"]


REFUSED = {"type": "Admitted", "status": "False", "reason": "AddressInUse", "message": "m"}
CLONED = {"type": "Cloned", "status": "True", "reason": "TwoBoots", "message": "m"}


@pytest.mark.parametrize(
    ("found", "texts"),
    [
        pytest.param(member(ADMITTED), [], id="all is well"),
        pytest.param(member(), ["not admitted yet"], id="the controller has not answered yet"),
        pytest.param(member(REFUSED), ["refused: AddressInUse"], id="it was refused"),
        pytest.param(member(ADMITTED, CLONED), ["cloned"], id="two machines are this member"),
        pytest.param(member(ADMITTED, deletionTimestamp=ONE_HOUR), ["leaving"], id="it is being deleted"),
        pytest.param(member(ADMITTED, annotations={"exclave.dev/cordoned": "true"}), ["cordoned"], id="it is cordoned"),
        pytest.param(
            member(ADMITTED, annotations={"exclave.dev/cordoned": "false"}), [], id="only the word true cordons"
        ),
    ],
)
def test_a_note_says_only_what_no_column_has(found: dict[str, Any], texts: list[str]) -> None:
    assert notes(found) == texts


def test_a_group_is_read_from_the_name() -> None:
    members = [member(name=name) for name in ("web-k7q2x-1", "web-api-k7q2x-1", "odd")]
    assert [group_of(one) for one in members] == ["web", "web-api", ""]
    assert in_group(members, "web") == members[:1]


def test_live_is_the_controllers_condition() -> None:
    assert [is_live(member(LIVE)), is_live(member())] == [True, False]


def test_a_description_is_complete() -> None:
    lines = dict(member_lines(member(ADMITTED, LIVE), None, [], NOW))
    assert lines == {
        "Name": "web-k7q2x-1",
        "Namespace": "shop",
        "Group": "web",
        "Age": "60m",
        "Note": "",
        "Address": "10.0.0.5",
        "Machine": "0123456789abcdef",
        "Facts": "kernel=6.1, zone=a",
        "Serving": "yes",
        "Data path": "meshed",
        "Loaded": "agent=0.1, settings=abababababab",
        "Certificate": "until 1970-01-02T00:00:00Z (22h left)",
        "Last issued": "1970-01-01T01:00:00Z  serial 1f, key cdcdcdcdcdcd",
        "Workload": "no ExternalWorkload",
        "Conditions": condition_table({"status": {"conditions": [ADMITTED, LIVE]}}),
        "Events": "",
    }


def test_a_certificate_has_expired_or_was_never_signed() -> None:
    assert certificate_words(view_member(member()), 86400.0) == "until 1970-01-02T00:00:00Z (expired)"
    assert certificate_words(view_member({"metadata": {}}), NOW) == "none yet"


def test_the_workload_as_linkerd_reads_it() -> None:
    ready = {"type": "Ready", "status": "True", "reason": "Ready"}
    assert workload_words({"spec": {"ports": [{"port": 80}, {"port": 81}]}, "status": {"conditions": [ready]}}) == (
        "Ready=True (Ready), ports listed: 80, 81"
    )
    assert workload_words({}) == "Ready is not reported yet, ports listed: none"


def test_events_come_in_the_order_of_their_time() -> None:
    events = [
        {"metadata": {}, "eventTime": ONE_HOUR, "type": "Normal", "reason": "Admitted", "note": "a member"},
        {"metadata": {"creationTimestamp": "1970-01-01T00:00:00Z"}, "type": "Warning", "reason": "First", "note": "n"},
    ]
    assert event_table(events, NOW).splitlines()[1:] == [
        "120m   Warning   First      n",
        "60m    Normal    Admitted   a member",
    ]
