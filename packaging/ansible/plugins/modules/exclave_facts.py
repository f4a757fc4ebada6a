#!/usr/bin/python
# Apache License 2.0 (see LICENSE in exclave's checkout)
"""Ansible module: facts of exclave on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: exclave_facts
short_description: Facts of exclave on a host
description:
  - Reads whether exclave is installed, of which group the host is a member, and the state of the agent.
  - Changes nothing. No fact contains a secret.
version_added: "0.1.0"
author: The exclave maintainers (@exclave)
attributes:
  check_mode:
    description: It runs in check mode as always.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
requirements: [root]
"""

EXAMPLES = r"""
- name: Read the facts of exclave
  exclave.mesh.exclave_facts:

- name: Print the state
  ansible.builtin.debug:
    var: ansible_facts.exclave.outcome
"""

RETURN = r"""
ansible_facts:
  description: The facts.
  returned: always
  type: dict
  contains:
    exclave:
      description: The facts of exclave.
      type: dict
      returned: always
      contains:
        installed:
          description: Is the program there?
          type: bool
          returned: always
        version:
          description: The version of the program. Null where it is not installed.
          type: str
          returned: always
        package:
          description: The version of the package, as dpkg or rpm has it. Null without a package.
          type: str
          returned: always
        member:
          description: The member, as NAMESPACE/NAME. Null if the host is none.
          type: str
          returned: always
        namespace:
          description: The group's namespace. Null if the host is no member.
          type: str
          returned: always
        group:
          description: The group. Null if the host is no member.
          type: str
          returned: always
        outcome:
          description: V(ready), V(no-application) or V(not-ready). Null if the host is no member.
          type: str
          returned: always
        reason:
          description: Why it is not ready.
          type: str
          returned: always
        status:
          description: What C(exclave status --json) prints. Empty if no agent answers.
          type: dict
          returned: always
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.exclave.mesh.plugins.module_utils.exclave_program import Exclave, group_of, outcome_of


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    exclave = Exclave(module)
    facts: dict[str, Any] = {
        "installed": exclave.program is not None,
        **dict.fromkeys(("version", "package", "member", "namespace", "group", "outcome")),
        "reason": "",
        "status": {},
    }
    if exclave.program is not None:
        facts |= {"version": exclave.version(), "package": exclave.package(), "status": exclave.status()}
        member = exclave.traces()["member"]
        if member is not None:
            namespace, group = group_of(member)
            outcome, reason = outcome_of(facts["status"])
            facts |= {"member": member, "namespace": namespace, "group": group, "outcome": outcome, "reason": reason}
    module.exit_json(changed=False, ansible_facts={"exclave": facts})


if __name__ == "__main__":
    main()
