#!/usr/bin/python
# Apache License 2.0 (see LICENSE in exclave's checkout)
"""Ansible module: the membership of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: exclave_member
short_description: Membership of a host in a Linkerd mesh
description:
  - V(present) joins a host that is no member, waits until pods can reach it, and fails if they cannot.
    On a member it only waits. So it is the health gate of a roll-out, too.
  - V(absent) leaves. Open connections end as C(exclave leave) ends them.
version_added: "0.1.0"
author: The exclave maintainers (@exclave)
options:
  state:
    description:
      - Is the host to be a member?
    type: str
    choices: [present, absent]
    default: present
  token:
    description:
      - The join token. Needed only if the host is no member.
      - It reaches C(exclave join) through standard input, and is in no log, argument list or result.
    type: str
  namespace:
    description:
      - The group's namespace. A member of another one is refused.
    type: str
  group:
    description:
      - The group. A member of another one is refused.
    type: str
  accept:
    description:
      - The least outcome that passes.
      - V(ready) means that pods send traffic to the host.
      - With V(no-application), an application may be missing, and nothing else.
      - With V(joined), anything may be missing.
    type: str
    choices: [ready, no-application, joined]
    default: no-application
  timeout:
    description:
      - Seconds to wait for that outcome once the host is a member.
    type: int
    default: 60
attributes:
  check_mode:
    description: Reports what would change. On a member the outcome is read once and never a failure.
    support: full
  diff_mode:
    description: Shows the membership, and what a leave removes.
    support: full
requirements: [root]
"""

EXAMPLES = r"""
- name: Join
  exclave.mesh.exclave_member:
    token: "{{ vaulted_token }}"

- name: Leave
  exclave.mesh.exclave_member:
    state: absent
"""

RETURN = r"""
outcome:
  description: V(ready), V(no-application) or V(not-ready).
  returned: with O(state=present), except for a host that check mode would let join
  type: str
reason:
  description: Why it is not ready.
  returned: with O(state=present)
  type: str
member:
  description: The member, as NAMESPACE/NAME.
  returned: if the host is a member
  type: str
code:
  description: The exit code of C(exclave), which states who must act.
  returned: if C(exclave) failed
  type: int
remains:
  description: What an admin must remove from the cluster, since it could not be reached.
  returned: with O(state=absent)
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.exclave.mesh.plugins.module_utils.exclave_program import (
    ACCEPTED,
    NO_APPLICATION,
    NOT_READY,
    READY,
    Exclave,
    group_of,
)

NOT_INSTALLED = "exclave is not installed"
NOT_READY_CODE = 3  # of `exclave join`: joined, and more than an application is missing


def diff(before: list[str], after: list[str]) -> dict[str, str]:
    """The two sides of a diff."""
    sides = {"before": before, "after": after}
    return {side: "".join(f"{line}\n" for line in lines) for side, lines in sides.items()}


def join(module: AnsibleModule, exclave: Exclave) -> dict[str, Any]:
    """Join; the result so far. Ends the module if that fails."""
    wanted = "/".join(filter(None, (module.params["namespace"], module.params["group"]))) or "the token's group"
    if module.check_mode:
        return {"changed": True, "reason": "", "diff": diff([], [f"a member of {wanted}"])}
    if exclave.program is None:
        module.fail_json(msg=NOT_INSTALLED)
    if not module.params["token"]:
        module.fail_json(msg="this host is not a member, and there is no join token for it")
    words = ("join", "--token-file", "-", "--timeout", f"{module.params['timeout']}s")
    answer = exclave.run(*words, stdin=module.params["token"])
    joined = answer.found.get("joined")
    if joined is None or answer.code not in (0, NOT_READY_CODE):
        module.fail_json(msg=answer.failure, code=answer.code)
    member = f"{joined['namespace']}/{joined['member']}"
    state = answer.found["state"]
    # The status is 0 for a pending member only if nothing but the application is missing.
    outcome = READY if state == "ready" else NO_APPLICATION if (answer.code, state) == (0, "pending") else NOT_READY
    reason = answer.found["reason"] or ""
    lines = diff([], [f"member {member}"])
    return {"changed": True, "member": member, "outcome": outcome, "reason": reason, "diff": lines}


def check_group(module: AnsibleModule, member: str) -> None:
    """End the module if the host is a member of another group than the wanted one."""
    for found, name in zip(group_of(member), ("namespace", "group")):
        wanted = module.params[name]
        if wanted and found != wanted:
            text = f"this host is the member {member}, whose {name} is {found}, not {wanted}: let it leave first"
            module.fail_json(msg=text)


def present(module: AnsibleModule, exclave: Exclave) -> dict[str, Any]:
    """Join if need be, and wait; the result. Ends the module if the outcome is not accepted."""
    member = exclave.traces()["member"] if exclave.program is not None else None
    accept = module.params["accept"]
    if member is None:
        result = join(module, exclave)
    else:
        check_group(module, member)
        outcome, reason = exclave.wait(accept, 0 if module.check_mode else module.params["timeout"])
        result = {"changed": False, "member": member, "outcome": outcome, "reason": reason}
    outcome = result.get("outcome", READY)
    if outcome not in ACCEPTED[accept] and not module.check_mode:
        module.fail_json(msg=f"{result['member']} is not ready: {result['reason']}; see why: exclave status", **result)
    if outcome == NO_APPLICATION:
        module.warn(f"{result['member']} gets no traffic yet, since no application answers: {result['reason']}")
    elif outcome == NOT_READY:
        module.warn(f"{result['member']} is not ready: {result['reason']}")
    return result


def absent(module: AnsibleModule, exclave: Exclave) -> dict[str, Any]:
    """Leave if need be; the result. Ends the module if that fails."""
    if exclave.program is None:
        return {"changed": False, "remains": []}
    traces = exclave.traces()
    files = [path for path in traces["files"] if path.endswith("/join.json")]  # of a join that did not end
    lines = [f"member {traces['member']}"] if traces["member"] else []
    lines += [f"{kind}: {one}" for kind in ("processes", "tables", "links") for one in traces[kind]]
    result: dict[str, Any] = {
        "changed": bool(lines or files),
        "remains": [],
        "diff": diff([*lines, *traces["files"]], []),
    }
    if not result["changed"]:
        del result["diff"]  # an agent without a membership has files, too
    elif not module.check_mode:
        answer = exclave.run("leave")
        if answer.code != 0 or "left" not in answer.found:
            module.fail_json(msg=answer.failure, code=answer.code)
        result["remains"] = answer.found["remains"]
        for what in result["remains"]:
            module.warn(f"an admin must remove this from the cluster: {what}")
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "token": {"type": "str", "no_log": True},
            "namespace": {"type": "str"},
            "group": {"type": "str"},
            "accept": {"type": "str", "choices": list(ACCEPTED), "default": NO_APPLICATION},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    change = present if module.params["state"] == "present" else absent
    module.exit_json(**change(module, Exclave(module)))


if __name__ == "__main__":
    main()
