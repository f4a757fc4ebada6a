"""Objects as text: tables as kubectl prints them, and `-o json|yaml|name|wide`. Pure.

The columns of our CRDs would not do: `group list`, `token list` and `rotation status` join several objects, and NOTE,
GROUP and `--group` of `member list` need our code.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from exclave.api.requests import Object, Resource
from exclave.errors import UsageError
from exclave.kit.formats.times import epoch
from exclave.kit.formats.visible_text import WIDTH_OF_GAP, VisibleText, is_visible, join_lines, visible

OUTPUT_FORMATS = ("json", "yaml", "name", "wide")
GAP = " " * WIDTH_OF_GAP


@dataclass(frozen=True)
class Listing:
    """The objects that a command found, and a table of them. `single`: one object was named."""

    resource: Resource
    objects: Sequence[Object]
    titles: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    single: bool = False

    def without_first_column(self) -> "Listing":
        """The same listing without the table's first column."""
        return replace(self, titles=self.titles[1:], rows=[row[1:] for row in self.rows])


def render(listing: Listing, form: str | None) -> VisibleText:
    """A listing as text, without a final newline; "" for an empty table."""
    if form == "json":
        return VisibleText(json.dumps(_whole(listing), indent=4))
    if form == "yaml":
        return yaml_text(_whole(listing))
    if form == "name":
        return join_lines(object_name(listing.resource, found) for found in listing.objects)
    return table(listing.titles, listing.rows)


def yaml_text(tree: object) -> VisibleText:
    """A JSON tree as YAML, in ASCII if it has an invisible character, which YAML then escapes.

    Raises ExclaveError without PyYAML, which only the admin's extra installs.
    """
    try:
        import yaml
    except ImportError:
        hint = "install it: pip install 'exclave[admin]'; or use -o json"
        raise UsageError("YAML needs the Python library PyYAML", hint) from None
    text = _dump(yaml, tree, in_ascii=False)
    if not all(map(is_visible, text.split("\n"))):
        text = _dump(yaml, tree, in_ascii=True)
    return VisibleText(text.rstrip("\n"))


def _dump(yaml: Any, tree: object, *, in_ascii: bool) -> str:
    return str(yaml.safe_dump(tree, sort_keys=False, default_flow_style=False, allow_unicode=not in_ascii))


def yaml_file(objects: Iterable[Object]) -> VisibleText:
    """Several objects as one file for `kubectl apply -f`."""
    return VisibleText("\n---\n".join(yaml_text(one) for one in objects))


def object_name(resource: Resource, found: Object) -> str:
    """An object as in `kubectl -o name`, such as `member.exclave.dev/web-k7q2x-1`."""
    kind = resource.kind.lower() + (f".{resource.group}" if resource.group else "")
    return f"{kind}/{found['metadata']['name']}"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> VisibleText:
    """Columns under titles, three spaces apart as in kubectl; "" without rows. An empty cell is `<none>`."""
    if not rows:
        return VisibleText()
    lines = [list(titles), *([visible(cell) or "<none>" for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    shown = (GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    return VisibleText("\n".join(shown))


def describe_text(pairs: Sequence[tuple[str, str]]) -> VisibleText:
    """Labels and texts as in `kubectl describe`; a table, or other lines that we have made, stand below their label."""
    lines = [(label, visible(text)) for label, text in pairs]
    width = max((len(label) for label, text in lines if "\n" not in text), default=0) + 1
    output = []
    for label, text in lines:
        if "\n" in text:
            output += [f"{label}:", *(f"  {line}" for line in text.split("\n"))]
        else:
            output.append(f"{label + ':':<{width}} {text or '<none>'}")
    return VisibleText("\n".join(output))


def few(names: Sequence[str]) -> str | None:
    """The first five names in their order, and the number of the others; None if there are none."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(sorted(names)[:5]) + more if names else None


def age(created: object, now: float) -> str:
    """The time since an RFC 3339 time; <unknown> if it is not one."""
    then = epoch(str(created))
    return "<unknown>" if then is None else human_duration(now - then)


def human_duration(seconds: float) -> str:
    """A duration in two units at most. Source: HumanDuration in k8s.io/apimachinery/pkg/util/duration/duration.go."""
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    size, unit, smaller_size, smaller = next(step[1:] for step in _STEPS if whole < step[0])
    first, rest = divmod(max(whole, 0), size)
    second = rest // smaller_size if smaller_size else 0
    return f"{first}{unit}{second}{smaller}" if second else f"{first}{unit}"


_HOUR, _DAY, _YEAR = 3600, 86400, 365 * 86400
_STEPS = (
    (120, 1, "s", 0, ""),
    (600, 60, "m", 1, "s"),
    (3 * _HOUR, 60, "m", 0, ""),
    (8 * _HOUR, _HOUR, "h", 60, "m"),
    (48 * _HOUR, _HOUR, "h", 0, ""),
    (8 * _DAY, _DAY, "d", _HOUR, "h"),
    (2 * _YEAR, _DAY, "d", 0, ""),
    (8 * _YEAR, _YEAR, "y", _DAY, "d"),
    (inf, _YEAR, "y", 0, ""),
)
"""Below so many seconds: the unit and its seconds, the smaller unit and its seconds (0: none)."""


def _whole(listing: Listing) -> Object:
    if listing.single:
        return dict(listing.objects[0])
    return {"apiVersion": "v1", "kind": "List", "items": list(listing.objects), "metadata": {"resourceVersion": ""}}
