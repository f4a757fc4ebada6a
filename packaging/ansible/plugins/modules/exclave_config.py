#!/usr/bin/python
# Apache License 2.0 (see LICENSE in exclave's checkout)
"""Ansible module: the settings of exclave on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: exclave_config
short_description: Settings of exclave on a host
description:
  - Writes C(/etc/exclave/config.toml) and reloads the agent, only if something changes.
  - The installed C(exclave) checks the settings first, also in check mode, and reports all mistakes at once.
  - If the agent refuses to reload, the former file returns and the module fails. A reload does not affect traffic.
version_added: "0.1.0"
author: The exclave maintainers (@exclave)
options:
  settings:
    description:
      - Tables with their keys, as C(man exclave-config) lists them. A key that is null is left out.
    type: dict
  content:
    description:
      - The text of the file, in place of O(settings).
    type: str
  reload:
    description:
      - Reload the agent after a change.
    type: bool
    default: true
  path:
    description:
      - The file.
    type: path
    default: /etc/exclave/config.toml
attributes:
  check_mode:
    description: Reports what would change, and settings that are wrong.
    support: full
  diff_mode:
    description: Shows the file before and after.
    support: full
requirements: [root]
"""

EXAMPLES = r"""
- name: Do not capture the monitoring agent
  exclave.mesh.exclave_config:
    settings:
      redirect:
        exclude_inbound_ports: [9100]
      member:
        zone: eu-1a
"""

RETURN = r"""
former:
  description: The text of the file before. Empty if there was none.
  returned: always
  type: str
reloaded:
  description: Was the agent reloaded? False if none runs.
  returned: always
  type: bool
"""

import os
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.exclave.mesh.plugins.module_utils.exclave_program import (
    CONFIG_INVALID,
    NO_AGENT,
    Exclave,
    toml_text,
)

STDIN = "/dev/stdin"
RELOAD_TIME = 180.0  # seconds; TimeoutStartSec= of exclave.service


def read(path: str) -> str:
    """The file's text; empty if there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def write(module: AnsibleModule, path: str, text: str) -> None:
    """Replace the file at once; its owner and mode stay."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    module.atomic_move(temporary, path)


def reload(module: AnsibleModule, exclave: Exclave) -> tuple[bool, str]:
    """Reload the agent, and wait until the next one has started. Whether one runs, and why it was refused."""
    answer = exclave.run("reload")
    if answer.code == NO_AGENT:
        return False, ""
    if answer.code != 0:
        return False, answer.failure
    # `exclave reload` ends when systemd knows of the reload, and systemd waits for READY=1.
    words = ["systemctl", "show", "--property=ActiveState", "--value", "exclave.service"]
    deadline = time.monotonic() + RELOAD_TIME
    while time.monotonic() < deadline:
        _, output, _ = module.run_command(words)
        if output.strip() != "reloading":
            break
        time.sleep(0.1)
    return True, ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "settings": {"type": "dict"},
            "content": {"type": "str"},
            "reload": {"type": "bool", "default": True},
            "path": {"type": "path", "default": "/etc/exclave/config.toml"},
        },
        mutually_exclusive=[("settings", "content")],
        required_one_of=[("settings", "content")],
        supports_check_mode=True,
    )
    exclave, path, text = Exclave(module), module.params["path"], module.params["content"]
    if text is None:
        try:
            text = toml_text(module.params["settings"])
        except ValueError as problem:
            module.fail_json(msg=f"the settings are wrong: {problem}")
    former = read(path)
    result = {"changed": text != former, "former": former, "reloaded": False}
    result["diff"] = {"before": former, "after": text, "before_header": path, "after_header": path}
    if exclave.program is None and not module.check_mode:
        module.fail_json(msg="exclave is not installed")
    if exclave.program is not None and text:
        answer = exclave.run("status", "--config", STDIN, stdin=text)
        if answer.code == CONFIG_INVALID:
            module.fail_json(msg=answer.failure.replace(STDIN, path), code=answer.code)
    if result["changed"] and not module.check_mode:
        write(module, path, text)
        if module.params["reload"]:
            result["reloaded"], refusal = reload(module, exclave)
            if refusal:
                write(module, path, former)
                module.fail_json(msg=f"the agent does not reload, and the former file is back: {refusal}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
