"""agent/docs/contract.md against the code: each has all that the other has."""

import ast
import dataclasses
import json
import re
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest

from exclave.admin.objects import controller_objects, group_objects
from exclave.api.definitions.manifests import schema_of
from exclave.api.group import LIMITS, MOST_LISTED, PROXY_PORTS
from exclave.api.join_token import JoinToken, encode_token
from exclave.api.member import Condition, MemberView
from exclave.api.names import ADMISSION_POLICY_NAMES
from exclave.api.requests import MEMBERS, WORKLOAD_GROUPS
from exclave.api.settings import render_settings
from exclave.config import Config, parse_config
from exclave.controller.policy.transitions import Action, RecheckAfter, Transition
from exclave.controller.telemetry.metrics import controller_metrics
from exclave.daemon.status import EMPTY, build_status
from exclave.ending import Ending
from exclave.errors import Fault
from exclave.join.refusals import read_refusal
from exclave.kit.formats.times import format_duration
from exclave.kit.host.process_identity import ProcessRecord
from exclave.link import layout
from exclave.link import link as private_link
from exclave.member.record import EvictionNote, JoinRecord, MembershipRecord
from exclave.member.state import State
from exclave.proxy.process.records import InstanceRecord
from exclave.proxy.process.units import CHECK, FOLDER, environment_path
from exclave.proxy.states import InstanceState
from exclave_sandbox.apiserver.kinds.schema import Schema

from .command_line import commands, parser_of
from .markdown import Row, all_spans, first_spans, read_document
from .samples import make_settings
from .source import agent_modules, first_arguments, keys_of_table, texts

PACKAGE = Path(__file__).resolve().parents[2] / "agent" / "exclave"

CONTRACT = read_document("contract.md")
CAMEL = re.compile(r"[A-Z][a-z]+(?:[A-Z][a-z]+)*")


# Failures.


def test_every_exit_code_has_its_word() -> None:
    written = {int(row[0]): row[1].strip("`") for row in CONTRACT.section("Exit codes").rows if row[0].isdecimal()}
    assert written.pop(0) == ""
    assert written == {fault.code: fault.word for fault in Fault}


def test_every_problem_in_the_status_has_its_code() -> None:
    modules = agent_modules()
    made = first_arguments(modules, "Problem")
    assert made, "problems are made in another way now: find them again"
    reasons = {
        text
        for module in agent_modules("exclave.data_path")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and "Enum" in map(ast.unparse, node.bases)
        for text in texts_of(node)
        if re.fullmatch(r"[a-z]+(-[a-z]+)+", text)
    }
    assert reasons, "the data path's reasons are no Enum any more: find them again"
    written = all_spans(CONTRACT.section("Status").between("Codes of problems").rows)
    assert written == made | reasons


def texts_of(node: ast.AST) -> set[str]:
    """Text constants below a node."""
    return {one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)}


# Configuration.


def _written_keys() -> dict[tuple[str, str], str]:
    """Tables and keys of config.toml, each with the cell of its default."""
    rows = CONTRACT.section("Configuration").rows
    tables = first_spans(rows)
    return {(tables[place][0], key): row[2] for place, row in enumerate(rows) for key in first_spans([row], 1)[0]}


def test_every_key_of_the_configuration_is_listed() -> None:
    default = Config()
    known = {
        (table.name, key.name)
        for table in dataclasses.fields(Config)
        for key in dataclasses.fields(getattr(default, table.name))
    }
    assert set(_written_keys()) == known


@pytest.mark.parametrize(("table", "key"), _written_keys())
def test_the_default_of_a_key_is_the_one_in_the_list(table: str, key: str) -> None:
    cell = _written_keys()[table, key]
    default = getattr(getattr(Config(), table), key)
    if not cell.startswith("`"):
        assert default in (None, ()), cell
        return
    value = cell.strip("`")
    written = value if isinstance(default, int) and value.isdecimal() else f'"{value}"'
    given = parse_config(f"[{table}]\n{key} = {written}", "the document")
    assert getattr(getattr(given, table), key) == default


# Objects.


def _paths(schema: Schema, before: str) -> set[str]:
    """The fields of a schema: `spec.ports[].name`, and `spec.labels` for a map."""
    if before.endswith(".conditions"):
        return {f"{before}[]"}
    if schema.get("type") == "array":
        return _paths(schema["items"], f"{before}[]")
    properties = schema.get("properties")
    if not properties:
        return {before}
    return {path for name, one in properties.items() for path in _paths(one, f"{before}.{name}")}


def _written_paths(title: str) -> set[str]:
    found = set()
    for spans in first_spans(CONTRACT.section(title).rows):
        path, *fields = [span.replace("{}", "") for span in spans]
        if not path.startswith("metadata."):
            found |= {f"{path}.{field}".replace(".[]", "[]") for field in fields} or {path}
    return found


@pytest.mark.parametrize(
    ("title", "schema"), [("WorkloadGroup", schema_of(WORKLOAD_GROUPS)), ("Member", schema_of(MEMBERS))]
)
def test_every_field_of_our_kinds_has_a_writer(title: str, schema: Schema) -> None:
    parts: dict[str, Any] = schema["properties"]
    wanted = {path for name in ("spec", "status") for path in _paths(parts[name], name)}
    assert {path.removesuffix("[]") for path in _written_paths(title)} == {path.removesuffix("[]") for path in wanted}


def test_the_limits_of_a_groups_spec_are_listed() -> None:
    text = CONTRACT.section("WorkloadGroup").text
    for key, (least, most) in LIMITS.items():
        assert f"`{key}` `{format_duration(least)}` to `{format_duration(most)}`" in text
    assert f"({', '.join(map(str, PROXY_PORTS))})" in text
    assert f"more than {MOST_LISTED} networks, labels, ports or probes" in text


def test_every_key_of_the_settings_is_listed() -> None:
    tree = json.loads(render_settings(make_settings()))
    written = CONTRACT.section("Lease, ConfigMap, Secret, account").names
    keys = {*tree, *tree["linkerd"], *tree["controlPlane"], *tree["group"]}
    assert {key for key in keys if key not in written and f"{key}[]" not in written} == set()


def test_every_label_annotation_and_finalizer_is_listed() -> None:
    ours = {text for text in texts(agent_modules()) if re.fullmatch(r"exclave\.dev/[a-z-]+", text)}
    written = all_spans(CONTRACT.section("Labels, annotations, finalizers").rows)
    assert {name for name in written if name.startswith("exclave.dev/")} == ours
    files = " ".join(path.read_text() for path in PACKAGE.rglob("*.yaml"))
    assert {name for name in written if name not in texts(agent_modules()) and name not in files} == set()


# Conditions and Events.


def _transition_labels() -> set[str]:
    """The values of `step` in the metric that counts the controller's transitions. A pause is not counted."""
    others = set(get_args(Transition)) - {Action, RecheckAfter}
    return {one.label for one in (*Action, *others)}


def _words_of_decisions() -> set[str]:
    """CamelCase words in the texts of those modules that decide on conditions and Events."""
    modules = agent_modules("exclave.controller", "exclave.listing", "exclave.member", "exclave.api.member")
    others = {"True", "False", "None", "Equivalent", "Lease"}  # Kubernetes' own words
    return {text for text in texts(modules) if CAMEL.fullmatch(text)} - others - _transition_labels()


def test_every_reason_in_the_code_is_in_the_contract() -> None:
    assert _words_of_decisions() >= {"GroupNotFound", "ProbeFailed", "GuardStands"}, "found in another way now"
    assert {word for word in _words_of_decisions() if word not in CONTRACT.names} == set()


@pytest.mark.parametrize(
    ("title", "column", "module", "elsewhere"),
    [
        ("Accepted, of a WorkloadGroup", 1, "controller.policy.accept", set()),
        ("OpaquePortsAgree, of a WorkloadGroup", 1, "controller.policy.opaque", set()),
        ("Admitted, of a Member", 1, "controller.policy.admit", set()),
        (
            "Registered, Live, Cloned, Certified, of a Member", 2, "controller.policy.transitions",
            {"AddressRefused", "AddressInUse", "NotReady", "ReadyAwaited"},  # from other modules
        ),
        ("Ready, of an ExternalWorkload", 1, "listing.ready", {"NotLive", "Evicted", "AddressChanges"}),
    ],
)  # fmt: skip
def test_a_condition_has_the_reasons_that_its_module_gives(
    title: str, column: int, module: str, elsewhere: set[str]
) -> None:
    reasons = {text for text in texts(agent_modules(f"exclave.{module}")) if CAMEL.fullmatch(text)}
    reasons -= {"True", "False", "Evicted"} | _transition_labels()  # Evicted: of the ExternalWorkload's Ready
    assert all_spans(CONTRACT.section(title).rows, column) == reasons | elsewhere


def test_every_reason_in_the_contract_is_in_the_code() -> None:
    rows = [row for row in CONTRACT.section("Conditions").rows if len(row) >= 3]
    listed = [spans for column in (1, 2) for spans in first_spans([r for r in rows if r[column]], column)]
    reasons = {span for spans in listed for span in spans if CAMEL.fullmatch(span)}
    reasons |= {span for span in CONTRACT.section("Events").spans if CAMEL.fullmatch(span)}
    assert len(reasons) > 30
    assert reasons - _words_of_decisions() - {"WorkloadGroup", "ConfigMap", "Secret"} == set()


@pytest.mark.parametrize("row", CONTRACT.section("Admitted, of a Member").rows, ids=lambda row: row[1].strip("`"))
def test_a_refusal_ends_a_join_with_the_code_in_the_list(row: Row) -> None:
    reason, code = row[1].strip("`"), row[3].partition(":")[0]
    claims = urlsafe_b64encode(json.dumps({"sub": "system:serviceaccount:shop-vms:web.join.k7q2x-1"}).encode()).decode()
    token = JoinToken(("https://10.0.0.1:6443",), "", "shop", "web", f"e30.{claims}.", 0.0)
    view = MemberView("web-k7q2x-1", admitted=Condition("Admitted", row[0] == "True", reason, ""))
    refusal = read_refusal(view, token)
    assert (str(refusal.fault.code) if refusal else "") == ("" if code == "none" else code)


# Life.


def test_every_state_of_a_machine_is_listed() -> None:
    rows = CONTRACT.section("The life of a member").rows
    assert all_spans(rows) == {state.value for state in State}


def test_every_state_of_an_instance_is_listed() -> None:
    rows = CONTRACT.section("Proxy instances").rows
    assert all_spans(rows) == {state.word for state in InstanceState}


def test_every_ending_is_listed() -> None:
    rows = CONTRACT.section("Endings").rows
    assert {row[0].replace(" ", "-") for row in rows} == {ending.value for ending in Ending}


# The machine.


def test_every_file_is_listed() -> None:
    files = CONTRACT.section("Files on the machine")
    known = {text for text in texts(agent_modules()) if re.fullmatch(r"[a-z-]+\.(json|key|lock|sock|conf)", text)}
    written = all_spans(files.rows)
    assert known - {"resolv.conf", "nsswitch.conf"} - CONTRACT.names == set()
    outputs = {"proxy-a.log", "proxy-b.log", ".1"}  # their names are put together
    outputs |= {FOLDER, *(environment_path(Path(), name).name for name in (*layout.INSTANCES, CHECK))}
    assert written - outputs - {"again/"} - known == set()


@pytest.mark.parametrize(
    ("file", "record"),
    [
        ("membership.json", MembershipRecord),
        ("join.json", JoinRecord),
        ("instances.json", InstanceRecord),
        ("guard.json", ProcessRecord),
        ("evicted.json", EvictionNote),
    ],
)
def test_the_fields_of_a_file_are_listed(file: str, record: type) -> None:
    (cell,) = [row[1] for row in CONTRACT.section("Files on the machine").rows if f"`{file}`" in row[0]]
    fields = {field.name for field in dataclasses.fields(record)}
    if record is EvictionNote:
        assert fields == {"namespace", "group", "member", "at"}, "the cell says these in words"
        return
    assert {field for field in fields if f"`{field}`" not in cell} == set()


def test_every_name_in_the_kernel_is_listed() -> None:
    objects = CONTRACT.section("Kernel objects")
    names = {layout.LINK, str(layout.NETWORK4), str(layout.NETWORK6), private_link.MARK, f"inet {layout.TABLE}"}
    owned = {f"inet {text}" for text in texts(agent_modules("exclave.redirect", "exclave.explain"))
             if re.fullmatch(r"exclave-[a-z]+", text)}  # fmt: skip
    assert owned, "the tables beside ours have other names: find them again"
    assert (names | owned) - set(objects.spans) == set()
    for port in (layout.INBOUND_PORT, layout.OUTBOUND_PORT, layout.ADMIN_PORT):
        assert str(port) in objects.text


def test_every_name_with_our_prefix_is_listed() -> None:
    known = {text for text in texts(agent_modules()) if re.fullmatch(r"exclave-[a-z]+", text)}
    assert known - {"exclave-sandbox"} - CONTRACT.names == set()


# Talking.


def test_every_command_of_the_control_socket_is_listed() -> None:
    known = keys_of_table(agent_modules(), "status", "leave", "joined")
    assert all_spans(CONTRACT.section("Control socket").rows) == known


def test_every_key_of_the_status_is_listed() -> None:
    table = CONTRACT.section("Status").between("", "Codes of problems").rows
    written = {span.removesuffix("[]"): row for row in table for span in first_spans([row])[0]}
    status = build_status("1", State.UNJOINED, 0.0, {}, {"a": 0.0}, {}, 60.0)
    assert set(written) == set(status)
    for section, keys in EMPTY.items():
        cell = first_spans([written[section]], 1)[0]
        assert {key for key in keys if key not in cell and f"{key}[]" not in cell} == set(), section


def test_every_key_of_a_join_token_is_listed() -> None:
    claims = urlsafe_b64encode(json.dumps({"sub": "system:serviceaccount:shop-vms:web.join.k7q2x-1"}).encode()).decode()
    more = ("proxy:v1", "name", "http://proxy:80")
    line = encode_token(JoinToken(("https://10.0.0.1:6443",), "ca", "shop", "web", f"e30.{claims}.", 0.0, *more))
    section = CONTRACT.section("Join token")
    prefix = section.spans[0]
    assert line.startswith(prefix)
    body = line.removeprefix(prefix)
    tree = json.loads(zlib.decompress(urlsafe_b64decode(body + "=" * (-len(body) % 4))))
    assert all_spans(section.rows) == set(tree)


OWN_PARSERS = {"demo", "admin"}
"""Commands of `exclave` that parse their own options."""


def test_every_command_and_option_on_a_machine_is_listed() -> None:
    section = CONTRACT.section("Commands")
    known = {name: options for name, options in commands(parser_of("exclave")) if name not in OWN_PARSERS}
    spans = [span for span in section.spans if span.startswith("exclave ")]
    written = {re.sub(r" \[.*| [A-Z].*", "", span.removeprefix("exclave ")) for span in spans}
    assert written == {*known, *OWN_PARSERS}
    named = {word for span in section.spans for word in span.split() if word.startswith("--")} | {"--json"}
    assert {(name, option) for name, options in known.items() for option in options if option not in named} == set()


def test_every_command_of_an_admin_is_listed() -> None:
    known = {name for name, _ in commands(parser_of("kubectl-exclave"))}
    written = set(CONTRACT.section("Commands").between("`exclave admin`:", "`--help`").spans)
    assert written == known


# Metrics.


def test_every_metric_of_the_controller_is_listed() -> None:
    metrics = controller_metrics(
        leads=True, members=Counter(), groups=0, refused_groups=0, transitions=Counter(), requests=Counter(),
        issuer_ends=1.0, policies_installed=True, heartbeat=10.0,
    )  # fmt: skip
    known = {f"{one.name}_total" if one.kind == "counter" else one.name: set(one.labels) for one in metrics}
    rows = CONTRACT.section("Metrics").between("The controller answers", "The agent reads").rows
    written = {spans[0]: row for row in rows for spans in first_spans([row])}
    assert set(written) == set(known)
    for name, labels in known.items():
        assert labels <= set(first_spans([written[name]], 1)[0]), name


def test_every_metric_of_the_agent_is_listed() -> None:
    made = {found[0] for text in texts(agent_modules()) if (found := re.match(r"exclave_[a-z_]+", text))}
    controllers = {text for text in texts(agent_modules("exclave.controller")) if text.startswith("exclave_")}
    rows = CONTRACT.section("Metrics").between("", "The controller answers").rows
    written = all_spans(rows)
    assert written - made == set()
    assert {name for name in made - controllers if not name.startswith("exclave_sandbox")} - written == set()


def test_every_step_that_the_controller_counts_is_listed() -> None:
    (cell,) = [row[1] for row in CONTRACT.section("Metrics").rows if "exclave_controller_steps_total" in row[0]]
    listed = set(cell.partition(":")[2].replace(",", " ").split())
    assert len(listed) > 10
    assert listed == _transition_labels()


def test_every_metric_that_is_read_from_the_proxy_is_in_the_code() -> None:
    rows = CONTRACT.section("Metrics").between("The agent reads").rows
    names = all_spans(rows)
    known = " ".join(texts(agent_modules("exclave.proxy", "exclave.swap", "exclave.data_path")))
    assert names
    for name in names:
        part = re.sub(r"^control_(destination|policy)(?=_balancer)", "", name)
        assert part in known, name


# Rights.


def test_every_right_is_listed() -> None:
    rows = CONTRACT.section("Rights (RBAC)").rows
    written = {
        (who, resource, verb.strip())
        for who, what, _ in rows
        for part in what.split("·")
        for resources, _, verbs in [part.rpartition(":")]
        for resource in re.findall(r"`([a-z/]+)`", resources)
        for verb in verbs.split(",")
    }
    # "`leases`: create, its own: get, update"
    written |= {("controller", "leases", verb) for verb in ("create", "get", "update")}
    granted = set()
    for placed in [*group_objects("shop", "web", {}, "exclave"), *controller_objects("exclave", "linkerd", "issuer")]:
        who = "controller" if "controller" in placed.body["metadata"]["name"] else "machines"
        who = {"exclave-issuer": "controller", "exclave-publisher.web": "controller"}.get(
            placed.body["metadata"]["name"], who
        )
        for rule in placed.body.get("rules") or ():
            granted |= {(who, resource, verb) for resource in rule["resources"] for verb in rule["verbs"]}
    assert written == granted


def test_both_admission_policies_are_described() -> None:
    assert set(ADMISSION_POLICY_NAMES) <= set(CONTRACT.section("Admission policies").spans)
