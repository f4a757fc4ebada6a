"""The rows of `check --proxy`: the proxies of members, as far as members report them. Pure."""

from collections import Counter
from collections.abc import Iterable

from exclave.admin.check.rows import Row, row
from exclave.admin.tables import few
from exclave.api.member import MemberView, view_member
from exclave.api.requests import Object
from exclave.kit.formats.times import epoch

ON_MACHINE = "on the machine: exclave status"


def proxy_rows(members: Iterable[Object], anchors: str | None, now: float) -> list[Row]:
    """Do the proxies of admitted members serve, with certificates that are valid and trusted?

    `anchors`: sha256 of Linkerd's trust anchors, as members report them; None if they cannot be read.
    """
    found = [(f"{one['metadata'].get('namespace', '')}/{one['metadata']['name']}", view_member(one)) for one in members]
    admitted = [(name, view) for name, view in found if view.admitted and view.admitted.status and not view.deleting]
    broken = [f"{name}: {why}" for name, view in admitted if (why := _why_broken(view)) is not None]
    ended = [name for name, view in admitted if not _is_valid(view, now)]
    other = [name for name, view in admitted if anchors is not None and view.loaded.get("anchors") != anchors]
    versions = Counter(version for _, view in admitted if (version := view.loaded.get("proxy")))
    counts = ", ".join(f"{version} on {count}" for version, count in sorted(versions.items()))
    rotation = "kubectl exclave rotation status"
    return [
        row("every member's proxy serves", few(broken), ON_MACHINE),
        row("every member has a valid certificate", few(ended), "kubectl exclave member renew NAME"),
        row(
            "every member's proxy has the current trust anchors",
            few(other),
            rotation,
            "warning",
        ),
        row(
            "all members run the same version of the proxy",
            counts if len(versions) > 1 else None,
            "on those machines: exclave proxy install; the agent moves traffic to the new one",
            "warning",
        ),
    ]


def _why_broken(view: MemberView) -> str | None:
    if view.data_path != "meshed":
        return f"{view.data_path} ({view.data_path_reason})" if view.data_path_reason else view.data_path or "unknown"
    return None if view.serving else "not serving"


def _is_valid(view: MemberView, now: float) -> bool:
    ends = epoch(view.certificate.not_after) if view.certificate is not None else None
    return ends is not None and ends > now
