"""`member renew`: asks machines to renew their certificates now, and waits for their answers.

A request is an annotation of the Member, which only an admin may write. The agent follows its Member, renews, and
answers in the Member's spec. It carries out one request a minute at most. One that is away answers when it is back.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence

from exclave.admin import arguments
from exclave.admin.member.rows import in_group, is_live
from exclave.admin.session import Session
from exclave.api.member import Renewal, view_member
from exclave.api.names import RENEW
from exclave.api.requests import MEMBERS, Object
from exclave.errors import ApiRefusal, UsageError
from exclave.kit.formats.times import format_duration, parse_duration, rfc3339_micro
from exclave.kit.host.output import print_out

TIMEOUT = 90.0  # seconds: an attempt of an agent ends after 60 s, with its reason


def add_renew(verbs: arguments.Subparsers) -> None:
    """Add the verb `renew`."""
    parser = arguments.add_verb(
        verbs,
        "renew",
        _renew,
        "renew the certificates of members now, at most once a minute each; exit status: 0 all renewed, 3 not all",
        "kubectl exclave member renew web-k7q2x-1 web-k7q2x-2 -n shop",
        "kubectl exclave member renew --group web -n shop",
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--group", metavar="GROUP", help="all members of this group")
    longest = f"wait for at most this time for their answers; default {format_duration(TIMEOUT)}"
    parser.add_argument("--timeout", type=parse_duration, default=TIMEOUT, metavar="TIME", help=longest)


def _renew(session: Session, options: argparse.Namespace) -> int:
    if bool(options.names) == (options.group is not None):
        raise UsageError("which members?", "name them, or a group with --group GROUP")
    members = _choose(session, options.names, options.group)
    if not members:
        raise UsageError(
            f"there are no members of group {options.group} in namespace {session.namespace}",
            "list them: kubectl exclave member list -A",
        )
    request = rfc3339_micro(session.now())
    waiting: set[str] = set()
    for member in members:  # one after another: the controller gets no more requests at a time than kubectl sends
        name = view_member(member).name
        if not _ask(session, name, request):
            print_out(f"member {name} not renewed: it was deleted")
        elif not is_live(member):
            print_out(f"member {name} not renewed: no heartbeat arrives; it renews when it is back")
        else:
            waiting.add(name)
    renewed = _follow(session, request, waiting, options.timeout)
    return 0 if renewed == len(members) else 3


def _choose(session: Session, names: Sequence[str], group: str | None) -> list[Object]:
    """The members of these names or of the group. Raises UsageError if one does not exist."""
    found = session.kubectl.list(MEMBERS, session.namespace)
    if group is not None:
        return in_group(found, group)
    by_name: Mapping[str, Object] = {view_member(one).name: one for one in found}
    for name in names:
        if name not in by_name:
            raise session.missing_error("member", name)
    return [by_name[name] for name in dict.fromkeys(names)]


def _ask(session: Session, name: str, request: str) -> bool:
    """Write the request into a Member. False if it was deleted meanwhile."""
    try:
        session.kubectl.patch(MEMBERS, session.namespace, name, {"metadata": {"annotations": {RENEW: request}}})
    except ApiRefusal as refusal:
        if refusal.reason == "NotFound":
            return False
        raise
    return True


def _follow(session: Session, request: str, waiting: set[str], timeout: float) -> int:
    """Print each answer as it arrives, and who has not answered in time. Returns how many have renewed."""
    results: list[bool] = []

    def is_done() -> bool:
        if waiting:
            for name, answer in answers(session.kubectl.list(MEMBERS, session.namespace), waiting, request).items():
                waiting.discard(name)
                results.append(answer is not None and answer.result == "renewed")
                print_out(f"member {name} {_outcome(answer)}")
        return not waiting

    if not session.wait_until(is_done, "their answers", timeout):
        for name in sorted(waiting):
            print_out(f"member {name} not renewed: no answer within {format_duration(timeout)}")
        session.note(
            "an agent or definitions (kubectl exclave upgrade) of an older version do not answer; on the machine, "
            "exclave status and exclave renew show more"
        )
    return sum(results)


def answers(members: Iterable[Object], waiting: Iterable[str], request: str) -> dict[str, Renewal | None]:
    """The answers to `request` of members in `waiting`; None for one that was deleted."""
    views = {view.name: view for view in map(view_member, members)}
    found: dict[str, Renewal | None] = {}
    for name in sorted(waiting):
        if (view := views.get(name)) is None:
            found[name] = None
        elif view.renewal is not None and view.renewal.request == request:
            found[name] = view.renewal
    return found


def _outcome(answer: Renewal | None) -> str:
    if answer is None:
        return "not renewed: it was deleted"
    return f"{'renewed' if answer.result == 'renewed' else 'not renewed'}: {answer.message}"
