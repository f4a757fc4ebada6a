"""Callback plugin of Ansible: writes each result, as callbacks get it, as one line of JSON to $EXCLAVE_RECORD."""

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """A log of results."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "record"

    def _write(self, outcome: str, result: Any) -> None:
        line = {"outcome": outcome, "host": result._host.get_name(), "task": result._task.get_name()}
        line |= {"changed": bool(result._result.get("changed")), "result": result._result}
        with open(os.environ["EXCLAVE_RECORD"], "a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=repr) + "\n")

    def v2_runner_on_ok(self, result: Any) -> None:
        self._write("ok", result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._write("failed", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._write("unreachable", result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._write("skipped", result)
