"""Members as rows of a table and as lines of a description, also those with an unusual name. Pure."""

from collections.abc import Iterable, Sequence

from exclave.admin.tables import age, human_duration, table
from exclave.api.malformed import mapping_in, mappings_in
from exclave.api.member import READY, Condition, MemberView, condition_of, conditions_of, view_member
from exclave.api.names import CORDONED, parse_member_name
from exclave.api.requests import Object
from exclave.kit.formats.times import epoch
from exclave.kit.formats.visible_text import join_lines

TITLES = (
    "NAMESPACE", "NAME", "GROUP", "ADDRESS", "LIVE", "SERVING", "DATA-PATH", "CERTIFICATE-UNTIL", "AGENT", "AGE", "NOTE"
)  # fmt: skip


def group_of(member: Object) -> str:
    """The group in a Member's name; "" if the name has another form."""
    try:
        return parse_member_name(member["metadata"]["name"]).group
    except ValueError:
        return ""


def in_group(members: Iterable[Object], group: str) -> list[Object]:
    """The Members of a group."""
    return [member for member in members if group_of(member) == group]


def is_live(member: Object) -> bool:
    """True if its heartbeats arrive."""
    live = view_member(member).live
    return live is not None and live.status


def member_row(member: Object, now: float) -> list[str]:
    """A row of `member list`."""
    view, metadata = view_member(member), member["metadata"]
    return [
        str(metadata.get("namespace", "")),
        view.name,
        group_of(member),
        ", ".join(view.addresses),
        _status(view.live),
        "True" if view.serving else "False",
        view.data_path,
        view.certificate.not_after if view.certificate else "",
        view.loaded.get("agent", ""),
        age(metadata.get("creationTimestamp"), now),
        ", ".join(notes(member)) or "-",
    ]


def notes(member: Object) -> list[str]:
    """Facts for the admin that no other column shows, as text for NOTE."""
    view = view_member(member)
    found = []
    if view.deleting:
        found.append("leaving")
    if (member["metadata"].get("annotations") or {}).get(CORDONED) == "true":
        found.append("cordoned")
    if view.admitted is not None and not view.admitted.status:
        found.append(f"refused: {view.admitted.reason}")
    elif view.admitted is None and not view.deleting:
        found.append("not admitted yet")
    if view.cloned is not None and view.cloned.status:
        found.append("cloned")
    return found


def member_lines(
    member: Object, workload: Object | None, events: Sequence[Object], now: float
) -> list[tuple[str, str]]:
    """Labels and texts of a description."""
    view, metadata = view_member(member), member["metadata"]
    facts = [f"{key}={value}" for key, value in sorted(view.facts.items())]
    loaded = [f"{key}={_short(value)}" for key, value in sorted(view.loaded.items())]
    issued = [
        f"{one.time or '?'}  serial {one.serial or '?'}, key {_short(one.key_sha256 or '?')}" for one in view.issued
    ]
    return [
        ("Name", view.name),
        ("Namespace", str(metadata.get("namespace", ""))),
        ("Group", group_of(member)),
        ("Age", age(metadata.get("creationTimestamp"), now)),
        ("Note", ", ".join(notes(member))),
        ("Address", ", ".join(view.addresses)),
        ("Machine", view.machine_hash),
        ("Facts", ", ".join(facts)),
        ("Serving", "yes" if view.serving else "no"),
        ("Data path", view.data_path),
        ("Loaded", ", ".join(loaded)),
        ("Certificate", certificate_words(view, now)),
        ("Last issued", join_lines(issued)),
        ("Workload", workload_words(workload)),
        ("Conditions", condition_table(member)),
        ("Events", event_table(events, now)),
    ]


def certificate_words(view: MemberView, now: float) -> str:
    """The end of its certificate."""
    if view.certificate is None:
        return "none yet"
    until = epoch(view.certificate.not_after)
    if until is None:
        return f"until {view.certificate.not_after}"
    left = f"{human_duration(until - now)} left" if until > now else "expired"
    return f"until {view.certificate.not_after} ({left})"


def workload_words(workload: Object | None) -> str:
    """Its ExternalWorkload as Linkerd reads it."""
    if workload is None:
        return "no ExternalWorkload"
    ports = [str(port.get("port")) for port in mappings_in(mapping_in(workload, "spec"), "ports")]
    ready = condition_of(workload, READY)
    words = "Ready is not reported yet" if ready is None else f"Ready={_status(ready)} ({ready.reason})"
    return f"{words}, ports listed: {', '.join(ports) or 'none'}"


def condition_table(found: Object) -> str:
    """The conditions of an object as a table; "" if there are none."""
    rows = [[one.type, _status(one), one.reason, one.message] for one in conditions_of(found)]
    return table(("TYPE", "STATUS", "REASON", "MESSAGE"), rows)


def event_table(events: Sequence[Object], now: float) -> str:
    """Events as a table, newest last; "" if there are none."""
    rows = sorted(
        (str(_event_time(one)), str(one.get("type", "")), str(one.get("reason", "")), str(one.get("note", "")))
        for one in events
    )
    return table(("AGE", "TYPE", "REASON", "NOTE"), [[age(time, now), *rest] for time, *rest in rows])


def _event_time(event: Object) -> object:
    series = event.get("series") or {}
    return series.get("lastObservedTime") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or ""


def _status(condition: Condition | None) -> str:
    if condition is None:
        return "Unknown"
    return "True" if condition.status else "False"


def _short(text: str) -> str:
    """The first digits of a hash; other text unchanged."""
    return text[:12] if len(text) == 64 else text
