"""Prints what the check of this host finds: `{"warnings": [...]}`, or code, message and hint of its error."""

import json
from pathlib import Path

import trio

from exclave.errors import HostError
from exclave.host_check.check import check_host

try:
    found = {"warnings": trio.run(check_host, Path("/nowhere"), strict_exception_groups=True)}
except HostError as error:
    found = {"code": error.fault.code, "message": error.message, "hint": error.hint}
print(json.dumps(found))
