"""Tables, ages and forms, as kubectl prints them."""

import json
import sys

import pytest
import yaml

from exclave.admin.tables import (
    OUTPUT_FORMATS,
    Listing,
    age,
    describe_text,
    human_duration,
    render,
    table,
    yaml_file,
)
from exclave.api.requests import MEMBERS, SERVICE_ACCOUNTS
from exclave.errors import ExclaveError
from exclave.kit.formats.times import epoch
from exclave.kit.formats.visible_text import is_visible, join_lines, visible

OBJECTS = [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}} for name in ("web", "db-backup")]
LISTING = Listing(SERVICE_ACCOUNTS, OBJECTS, ("NAME", "AGE"), [("web", "5m"), ("db-backup", "")])


def test_columns_are_aligned_and_an_empty_cell_is_marked() -> None:
    assert table(("NAME", "AGE"), [("web", "5m"), ("db-backup", "")]) == (
        "NAME        AGE\nweb         5m\ndb-backup   <none>"
    )


FORGED = "ok\nweb-k7q2x-2   True\x1b[1A\u202e"
SHOWN = r"ok\nweb-k7q2x-2 \x20\x20True\x1b[1A\u202e"


def test_a_cell_forges_no_row_no_column_and_no_escape() -> None:
    assert table(("NAME", "NOTE", "AGE"), [("web", FORGED, "5m")]) == (
        f"NAME   {'NOTE':<{len(SHOWN)}}   AGE\nweb    {SHOWN}   5m"
    )


def test_a_description_shows_tables_below_their_label_and_other_texts_on_one_line() -> None:
    inner = table(("TYPE", "MESSAGE"), [("Ready", FORGED)])
    lines = describe_text([("Note", FORGED), ("Conditions", inner)]).split("\n")
    assert lines == [f"Note: {SHOWN}", "Conditions:", "  TYPE    MESSAGE", f"  Ready   {SHOWN}"]


@pytest.mark.parametrize("text", [FORGED, "\x85\x9b2J", "\u2066\u200b", "\ufe00\u3164", "é\tß"])
def test_yaml_and_json_escape_by_their_own_rules(text: str) -> None:
    found = Listing(MEMBERS, [{"metadata": {"name": text}}], single=True)
    for form, read in (("yaml", yaml.safe_load), ("json", json.loads)):
        shown = render(found, form)
        assert read(shown) == found.objects[0]
        assert all(map(is_visible, shown.split("\n")))
    assert render(found, "name") == visible(f"member.exclave.dev/{text}")


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (None, "NAME        AGE\nweb         5m\ndb-backup   <none>"),
        ("wide", "NAME        AGE\nweb         5m\ndb-backup   <none>"),
        ("name", "serviceaccount/web\nserviceaccount/db-backup"),
    ],
)
def test_a_listing_in_each_form_for_people(form: str | None, text: str) -> None:
    assert render(LISTING, form) == text


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_programs_get_a_list_of_the_objects(form: str) -> None:
    read = json.loads if form == "json" else yaml.safe_load
    found = read(render(LISTING, form))
    assert (found["kind"], found["apiVersion"], found["items"]) == ("List", "v1", OBJECTS)


def test_one_named_object_is_printed_as_itself() -> None:
    one = Listing(SERVICE_ACCOUNTS, OBJECTS[:1], single=True)
    assert json.loads(render(one, "json")) == OBJECTS[0]
    assert render(one, "yaml") == "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: web"


def test_an_empty_table_is_no_text_and_an_empty_list_is_a_list() -> None:
    nothing = Listing(MEMBERS, [], ("NAME",))
    assert [render(nothing, form) for form in (None, "wide", "name")] == ["", "", ""]
    assert json.loads(render(nothing, "json"))["items"] == []


def test_every_output_format_is_supported() -> None:
    assert OUTPUT_FORMATS == ("json", "yaml", "name", "wide")


def test_objects_are_documents_of_one_file() -> None:
    assert list(yaml.safe_load_all(yaml_file(OBJECTS))) == OBJECTS


def test_yaml_without_its_library_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ExclaveError) as refused:
        render(LISTING, "yaml")
    assert refused.value.message == "YAML needs the Python library PyYAML"
    assert refused.value.hint == "install it: pip install 'exclave[admin]'; or use -o json"


def test_a_label_is_before_its_text_and_above_a_table() -> None:
    assert describe_text([("Name", "web"), ("Address", ""), ("Tokens", join_lines(["ID", "k7q2x"]))]) == (
        "Name:    web\nAddress: <none>\nTokens:\n  ID\n  k7q2x"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-2, "<invalid>"), (-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (125, "2m5s"), (600, "10m"),
        (10799, "179m"), (3 * 3600, "3h"), (3 * 3600 + 60, "3h1m"), (8 * 3600, "8h"), (47 * 3600, "47h"),
        (48 * 3600, "2d"), (49 * 3600, "2d1h"), (8 * 86400, "8d"), (729 * 86400, "729d"), (730 * 86400, "2y"),
        (731 * 86400, "2y1d"), (8 * 365 * 86400, "8y"),
    ],
)  # fmt: skip
def test_durations_are_formatted_as_in_kubectl(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_an_age_counts_from_a_time_of_kubernetes() -> None:
    assert epoch("1970-01-01T00:01:00Z") == 60.0
    assert age("1970-01-01T00:01:00Z", 90.0) == "30s"
    assert age(None, 90.0) == "<unknown>"
