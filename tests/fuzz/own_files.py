"""Targets for the agent's own files, which a crash, a full disk or an editor may have damaged."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from exclave.cluster.server_addresses import FILE as ADDRESSES
from exclave.cluster.server_addresses import load_answers
from exclave.confirm.confirm import FILE as CONFIRM
from exclave.confirm.confirm import load_unconfirmed
from exclave.errors import HostError
from exclave.identity.storage import NEXT_KEY, SVID, load_next_key, load_svid, own_keys, store_next_key, store_svid
from exclave.kit.formats.json_text import parse_json
from exclave.kit.host.process_identity import parse_process
from exclave.member.record import (
    ANSWER,
    EVICTION,
    MEMBERSHIP,
    LastAnswer,
    load_answer,
    load_eviction,
    load_join,
    load_membership,
    load_settings,
    store_answer,
    store_membership,
)
from exclave.member.record import JOIN as JOIN_FILE
from exclave.member.record import SETTINGS as SETTINGS_FILE
from exclave.proxy.process.records import parse_instances
from exclave.redirect.reconciler import FILE as RULES
from exclave.redirect.reconciler import AppliedRecord
from fuzz.agent import CHAIN, KEY, NOW, SETTINGS, as_json, of_text
from fuzz.target import Target
from support.mesh import RECORD

FOLDER = tempfile.TemporaryDirectory(prefix="exclave-")
STATE = Path(FOLDER.name)


def of_file(name: str, load: Callable[[Path], object]) -> Callable[[bytes], object]:
    """For a parser of a file in a folder."""

    def read(content: bytes) -> object:
        (STATE / name).write_bytes(content)
        return load(STATE)

    return read


def stored(name: str, store: Callable[[Path], object]) -> bytes:
    """The content that is written to that file."""
    store(STATE)
    return (STATE / name).read_bytes()


SERVER = "https://api.example.test:6443"
PROCESS = {"pid": 41, "start_ticks": 7, "boot_id": "b", "executable": "/usr/bin/proxy"}
INSTANCES = {"a": PROCESS | {"environment": "ab", "program": {"stamp": "1", "digest": "ab"}}}
OWN_FILES = (
    Target(
        MEMBERSHIP,
        of_file(MEMBERSHIP, load_membership),
        [stored(MEMBERSHIP, lambda state: store_membership(state, RECORD))],
        (HostError,),
        (load_membership,),
    ),
    Target(
        ANSWER,
        of_file(ANSWER, lambda state: load_answer(state, RECORD)),
        [stored(ANSWER, lambda state: store_answer(state, LastAnswer("shop", "web-1", True, (80,), False)))],
        (),
        (load_answer,),
    ),
    Target(JOIN_FILE, of_file(JOIN_FILE, load_join), [as_json({"nonce": "n"})], (), (load_join,)),
    Target(EVICTION, of_file(EVICTION, load_eviction), [as_json({"member": "n"})], (), (load_eviction,)),
    Target(SETTINGS_FILE, of_file(SETTINGS_FILE, load_settings), [SETTINGS], (), (load_settings,)),
    Target(
        SVID,
        of_file(SVID, lambda state: (load_svid(state), own_keys(state))),
        [stored(SVID, lambda state: store_svid(state, CHAIN.decode(), KEY, NOW, NOW))],
        (),
        (load_svid,),
    ),
    Target(
        NEXT_KEY,
        of_file(NEXT_KEY, load_next_key),
        [stored(NEXT_KEY, lambda state: store_next_key(state, KEY, "PEM"))],
        (),
        (load_next_key,),
    ),
    Target(CONFIRM, of_file(CONFIRM, load_unconfirmed), [b'{"seconds": 60.0, "begun": true}'], (), (load_unconfirmed,)),
    Target(
        ADDRESSES,
        of_file(ADDRESSES, lambda state: load_answers(state, [SERVER])),
        [as_json({SERVER: ["10.0.0.1"]})],
        (),
        (load_answers,),
    ),
    Target("instances.json", of_text(parse_instances), [as_json(INSTANCES)], (ValueError,), (parse_instances,)),
    Target(
        "keepalive.json",
        of_text(lambda text: parse_process(parse_json(text))),
        [as_json(PROCESS)],
        (ValueError,),
        (parse_process,),
    ),
    Target(
        RULES,
        of_file(RULES, lambda state: AppliedRecord(state).find_fingerprint("rules")),
        [b'{"rules": "a", "fingerprint": "b", "boot_id": "c"}'],
    ),
)
