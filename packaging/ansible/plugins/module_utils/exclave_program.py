# Apache License 2.0 (see LICENSE in exclave's checkout)
"""Runs `exclave` on a host and reads its answers, for the modules of this collection.

Targets have Python 3.9 or newer and nothing beside its standard library.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

READY, NO_APPLICATION, NOT_READY = "ready", "no-application", "not-ready"

ACCEPTED = {READY: (READY,), NO_APPLICATION: (READY, NO_APPLICATION), "joined": (READY, NO_APPLICATION, NOT_READY)}
"""By the value of `accept`: the outcomes that pass."""

NO_AGENT, CONFIG_INVALID = 5, 40  # exit codes of exclave

PACKAGE_VERSION = (
    ("dpkg-query", "--show", "--showformat=${Version}", "exclave"),
    ("rpm", "--query", "--queryformat=%{VERSION}-%{RELEASE}", "exclave"),
)

PAUSE = 1.0  # seconds between two readings of the status

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class Answer:
    """How a run of `exclave` ended. `found`: the JSON object that it printed, empty if there was none."""

    def __init__(self, code: int, output: str, errors: str) -> None:
        self.code = code
        self.found = parse_object(output)
        self.errors = errors.strip()

    @property
    def failure(self) -> str:
        """Message and remedy of a failure, for a person."""
        error = self.found.get("error") or {}
        if "message" in error:
            return f"{error['message']}; to do: {error.get('hint', '')}"
        return self.errors or f"exclave ended with status {self.code}"


class Exclave:
    """The program `exclave` of a host. `program` is None where it is not installed."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.program = module.get_bin_path("exclave")

    def run(self, *words: str, stdin: str | None = None) -> Answer:
        """Run a command to its end. `stdin` is in no argument list and in no log."""
        return Answer(*self._module.run_command([self.program, *words, "--json"], data=stdin, binary_data=True))

    def version(self) -> str:
        """The version of the installed program."""
        _, output, _ = self._module.run_command([self.program, "--version"])
        return str(output).strip().rpartition(" ")[2]

    def package(self) -> str | None:
        """The version of the package, as dpkg or rpm has it; None without a package."""
        for program, *words in PACKAGE_VERSION:
            path = self._module.get_bin_path(program)
            if path is not None:
                code, output, _ = self._module.run_command([path, *words])
                if code == 0:
                    return str(output).strip()
        return None

    def status(self) -> dict[str, Any]:
        """The agent's status; empty if no agent answers."""
        found = self.run("status").found
        return found if "state" in found else {}

    def traces(self) -> dict[str, Any]:
        """What `exclave leave` would end and remove. Ends the module if it cannot be read."""
        answer = self.run("leave", "--dry-run")
        if "dryRun" not in answer.found:
            self._module.fail_json(msg=answer.failure, code=answer.code)
        found: dict[str, Any] = answer.found["dryRun"]
        return found

    def wait(self, accept: str, timeout: float) -> tuple[str, str]:
        """Wait for at most `timeout` seconds for an accepted outcome; the last outcome, and why it is not ready."""
        deadline = time.monotonic() + timeout
        while True:
            outcome, reason = outcome_of(self.status())
            if outcome in ACCEPTED[accept] or time.monotonic() >= deadline:
                return outcome, reason
            time.sleep(PAUSE)


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object of a text; empty if it is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def outcome_of(status: dict[str, Any]) -> tuple[str, str]:
    """The outcome that a status means, and why it is not ready. `exclave join` decides in the same way."""
    if not status:
        return NOT_READY, "no agent runs on this machine; start it: systemctl start exclave"
    listing, state = status["listing"], status["state"]
    if listing["ready"] and state in ("ready", "orphaned"):
        return READY, ""
    reason = str(listing["reason"] or "")
    failed = tuple(f"{probe['kind']} {probe['port']}: " for probe in listing["probes"] if not probe["passing"])
    if state == "pending" and reason.startswith(failed):
        return NO_APPLICATION, reason
    problems = [problem["message"] for problem in status["problems"]]
    waits = [f"waiting for {waiting['for']}" for waiting in status["waiting"]]
    return NOT_READY, next(iter([*problems, *waits]), reason or f"the state is {state}")


def group_of(member: str) -> tuple[str, str]:
    """Namespace and group of a member such as shop/web-k7q2x-1."""
    namespace, _, name = member.partition("/")
    return namespace, name.rsplit("-", 2)[0]


def toml_text(settings: dict[str, Any]) -> str:
    """The text of config.toml for tables with their keys. A key without a value (null) is left out.

    Raises ValueError, which names the place, if a table or value is of another type.
    """
    lines = ["# Written by Ansible (exclave.mesh.exclave_config): changes here are lost."]
    for table in sorted(settings):
        keys = settings[table]
        if not isinstance(keys, dict):
            raise ValueError(f"{table}: a table of keys was expected, found {keys!r}")
        lines += ["", f"[{_toml_key(table)}]"]
        for key in sorted(keys):
            if keys[key] is not None:
                lines.append(f"{_toml_key(key)} = {_toml_value(f'{table}.{key}', keys[key])}")
    return "\n".join(lines) + "\n"


def _toml_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _toml_value(key, key)


def _toml_value(place: str, value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml_value(place, one) for one in value)}]"
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if isinstance(value, str):
        # TOML's escapes are those of JSON, and it forbids one control character that JSON permits.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    raise ValueError(f"{place}: a text, a number, true, false or a list was expected, found {value!r}")
