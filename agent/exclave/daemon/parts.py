"""The parts of an agent, and what its status shows of them. Changes nothing; a part that is not open adds nothing."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from exclave.cluster.member_cluster import MemberCluster
from exclave.confirm.confirm import Confirming
from exclave.daemon.status import Problem, Section, problem_of
from exclave.daemon.wanted_rules import Steering
from exclave.data_path.observer import DataPathObserver
from exclave.dns.server import DnsStub
from exclave.ending import Ending, EndingSwitch
from exclave.errors import Fault, HostError
from exclave.firewall.observer import FirewallObserver
from exclave.identity.rotator import Identity
from exclave.join.refusals import MOST_SKEW, clocks_differ
from exclave.kit.formats.times import rfc3339
from exclave.kit.tasks.latest import Latest
from exclave.link.layout import INSTANCES
from exclave.link.link import PrivateLink
from exclave.listing.serving import Listing
from exclave.member.client import MemberClient
from exclave.member.record import EvictionNote, JoinRecord, MembershipRecord
from exclave.member.state import Situation, Standing, State
from exclave.proxy.instance import Proxy
from exclave.redirect.private_table import PrivateTable
from exclave.redirect.reconciler import Redirect
from exclave.redirect.source_routing import SourceRouting
from exclave.swap.swap import Swap
from exclave.workload_api.server import WorkloadApi


@dataclass(eq=False)
class Parts:
    """The parts of one boot; a part is None until it has opened. `endings`: how this boot ends."""

    endings: EndingSwitch
    record: MembershipRecord
    ending: Ending | None = None  # set once an ending is requested
    host_error: HostError | None = None  # why this host cannot be a member now
    cluster: MemberCluster | None = None
    membership: MemberClient | None = None
    identity: Identity | None = None
    workload_api: WorkloadApi | None = None
    names: DnsStub | None = None
    private: PrivateTable | None = None
    link: PrivateLink | None = None
    routing: SourceRouting | None = None
    proxy: Proxy | None = None
    data_path: DataPathObserver | None = None
    confirming: Confirming | None = None
    steering: Steering | None = None
    redirect: Redirect | None = None
    firewall: FirewallObserver | None = None
    swap: Swap | None = None
    listing: Listing | None = None


def situation_of(parts: Parts | None, join: JoinRecord | None) -> Situation:
    """The facts that the state is computed from."""
    if parts is None:
        return Situation(is_joining=join is not None and not join.refusal)
    listing = parts.listing.state.value if parts.listing else None
    return Situation(
        is_member=True,
        standing=parts.membership.standing.value if parts.membership else Standing.MEMBER,
        is_leaving=parts.ending is Ending.LEAVE,
        is_stopping=parts.ending is Ending.STOP,
        is_failing=listing.is_failing if listing else False,
        is_serving=listing.serving if listing else False,
        is_ready=listing.ready if listing else False,
    )


def log_fields_of(parts: Parts | None, state: State) -> dict[str, str]:
    """The fields of each entry in the journal; a machine that is no member has an empty member."""
    member = f"{parts.record.namespace}/{parts.record.member}" if parts is not None else ""
    return {"EXCLAVE_STATE": state.value, "EXCLAVE_MEMBER": member}


def is_redirected(parts: Parts | None) -> bool:
    """True while the wanted rules are in the kernel, and point to a proxy that may have traffic."""
    if parts is None or parts.proxy is None or parts.redirect is None or parts.ending is not None:
        return False
    ready = parts.proxy.ready.value
    return ready is not None and parts.redirect.in_place and parts.redirect.observed.value.instance == ready


def sources_of(parts: Parts) -> tuple[Latest[Any], ...] | None:
    """The values whose changes may change the state; None while this boot opens or ends: poll instead."""
    if parts.listing is None or parts.membership is None or parts.cluster is None or parts.endings.asked.value:
        return None
    return (parts.endings.asked, parts.membership.standing, parts.listing.state, parts.cluster.waiting)


def sections_of(parts: Parts | None) -> dict[str, Section]:
    """The sections of the open parts."""
    if parts is None:
        return {}
    record = parts.record
    sections: dict[str, Section] = {
        "member": {"name": record.member, "namespace": record.namespace, "group": record.group},
        "metrics": dict(_metrics(parts)),
    }
    if parts.cluster is not None:
        sections["cluster"] = {
            "server": parts.cluster.server,
            "reachable": parts.cluster.reachable.value,
            "answered": _time(parts.membership.answered_at) if parts.membership else None,
            "credentialExpires": rfc3339(parts.cluster.credential.value.expires),
            "settings": parts.membership.settings_digest if parts.membership else None,
        }
    if parts.identity is not None:
        sections["certificate"] = _certificate(parts)
    if parts.names is not None:
        sections["names"] = {"address": parts.names.address, "answers": dict(parts.names.answers)}
    if parts.proxy is not None:
        instances = parts.proxy.instances.value
        active = parts.redirect.observed.value.instance if parts.redirect else None
        sections["proxy"] = {
            "active": active,
            "instances": {
                name: {
                    "state": instances[name].state.word,
                    "pid": instances[name].pid,
                    "answered": _time(parts.proxy.answered.get(name)),
                }
                if name in instances
                else None
                for name in INSTANCES
            },
        }
    if parts.redirect is not None:
        observed = parts.redirect.observed.value
        sections["redirect"] = {
            "installed": observed.installed,
            "matches": parts.redirect.in_place,
            "captured": {"inbound": observed.inbound, "outbound": observed.outbound},
        }
    if parts.listing is not None:
        sections["listing"] = _listing(parts.listing, parts.membership)
    return sections


def _time(at: float | None) -> str | None:
    return rfc3339(at) if at is not None else None


def _certificate(parts: Parts) -> Section:
    assert parts.identity is not None
    svid, renew_at = parts.identity.svid.value, parts.identity.renew_at.value
    running = parts.proxy.oldest if parts.proxy else None
    return {
        "notAfter": rfc3339(svid.not_after) if svid else None,
        "renewAt": rfc3339(renew_at) if renew_at is not None else None,
        "issuer": svid.issuer_sha256 if svid else None,
        "anchors": running.anchors or None if running else None,
    }


def _listing(listing: Listing, membership: MemberClient | None) -> Section:
    view = listing.state.value
    is_earlier = membership is not None and membership.view.value is None and membership.last_answer is not None
    return {
        "serving": view.serving,
        "ports": list(view.ports),
        "ready": view.ready,
        "reason": view.message if not view.ready and view.message else view.reason or None,
        "probes": [
            {"kind": probe.kind, "port": probe.port, "passing": probe.passing, "message": probe.message}
            for probe in view.probes
        ],
        "asOf": _time(membership.answered_at) if membership is not None and is_earlier else None,
    }


def _metrics(parts: Parts) -> Iterator[tuple[str, Any]]:
    if parts.membership is not None and (age := parts.membership.heartbeat_age()) is not None:
        yield "exclave_heartbeat_age_seconds", round(age, 3)
    if parts.cluster is not None:
        yield "exclave_credential_not_after_seconds", parts.cluster.credential.value.expires
        for (verb, code), count in sorted(parts.cluster.counts.items()):
            yield f'exclave_api_requests_total{{verb="{verb}",code="{code}"}}', count
    if parts.identity is not None:
        if (svid := parts.identity.svid.value) is not None:
            yield "exclave_certificate_not_after_seconds", svid.not_after
        for result, count in sorted(parts.identity.renewals.items()):
            yield f'exclave_certificate_renewals_total{{result="{result}"}}', count
    if parts.link is not None:
        yield "exclave_link_repairs_total", parts.link.repairs
    if parts.redirect is not None:
        yield "exclave_redirect_repairs_total", parts.redirect.repairs
    if parts.proxy is not None:
        for instance, count in sorted(parts.proxy.starts.items()):
            yield f'exclave_proxy_starts_total{{instance="{instance}"}}', count
    if parts.swap is not None:
        for result, count in sorted(parts.swap.results.items()):
            yield f'exclave_proxy_swaps_total{{result="{result}"}}', count
    if parts.workload_api is not None:
        yield "exclave_workload_api_streams", parts.workload_api.streams.value


def waits_of(parts: Parts | None, join: JoinRecord | None) -> list[str]:
    """The waits of this machine, in the order in which the waits end."""
    if parts is None:
        is_joining = situation_of(None, join).is_joining
        return ["exclave join to come to its end" if is_joining else "somebody to run exclave join"]
    if parts.ending is not None:
        return [f"its parts to close ({parts.ending.value})"]
    return list(_waits(parts))


def _waits(parts: Parts) -> Iterator[str]:
    if parts.host_error is not None:
        yield "this machine to be repaired"
    if parts.cluster is not None and (asking := parts.cluster.waiting.value) is not None:
        yield f"the API server {asking}"
    membership, identity, proxy = parts.membership, parts.identity, parts.proxy
    if membership is not None and membership.settings.value is None:
        yield "the mesh's settings"
    elif identity is not None and identity.svid.value is None:
        yield f"a certificate{_why(identity.problem.value)}"
    elif proxy is not None and proxy.ready.value is None:
        yield f"the proxy{_why(proxy.problem.value)}"
    elif parts.redirect is not None and not parts.redirect.in_place:
        yield "the rules"
    elif parts.listing is not None and not (view := parts.listing.state.value).ready:
        yield f"this machine to become ready ({view.message})" if view.message else "the own Member"
    if parts.swap is not None and parts.swap.clients.value:
        yield "the last connections of a proxy that was replaced to end"


def _why(reason: str | None) -> str:
    return f" ({reason})" if reason else ""


def problems_of(parts: Parts | None, join: JoinRecord | None, evicted: EvictionNote | None) -> list[Problem]:
    """The problems that a person must solve now."""
    if parts is None:
        return list(_problems_unjoined(join, evicted))
    return list(_problems(parts))


def _problems_unjoined(join: JoinRecord | None, evicted: EvictionNote | None) -> Iterator[Problem]:
    if join is not None and join.refusal:
        yield Problem(join.refusal, f"joining as {join.member} was refused", "run exclave join again to see why")
    if evicted is not None:
        who = f"{evicted.namespace}/{evicted.member}"
        text = f"member {who} was evicted at {rfc3339(evicted.at)}"
        yield Problem("evicted", text, "join again with a new token if it should be")


def _problems(parts: Parts) -> Iterator[Problem]:
    if parts.cluster is not None and abs(skew := parts.cluster.skew or 0.0) > MOST_SKEW:
        # First, because it explains others: certificates that seem to have expired, or not to be valid yet.
        yield problem_of(clocks_differ(parts.cluster.server, skew))
    if parts.host_error is not None:
        yield problem_of(parts.host_error)
    if parts.membership is not None:
        yield from _problems_in_cluster(parts.membership)
    if parts.cluster is not None and (loop := parts.cluster.looping.value) is not None:
        hint = "find out what ends it: read the logs of the API server, and of load balancers in front of it"
        yield Problem("watch-loops", f"the watch of {loop}; changes arrive late", hint)
    for source, problem in _reported_by_parts(parts):
        if (text := source.value) is not None:
            yield replace(problem, message=text)
    if parts.data_path is not None and (reason := (assessment := parts.data_path.assessment.value).reason) is not None:
        yield Problem(reason.word, assessment.message, reason.hint)
    if parts.confirming is not None and (found := parts.confirming.view.value).text:
        if found.is_withdrawn:
            yield Problem("rolled-back", found.text, "run exclave confirm to load them again, without a time limit")
        else:
            hint = "check with a new login that this machine is reachable, then run: exclave confirm"
            yield Problem("confirm-awaited", found.text, hint)
    if parts.firewall is not None and (blocked := parts.firewall.blocked.value) is not None:
        yield Problem(
            "firewall-blocks", blocked.message, f"{blocked.hint}; and add it to the file that makes these rules"
        )
    for part in (parts.private, parts.link, parts.routing, parts.redirect):
        if part is not None and (error := part.problem.value) is not None:
            yield problem_of(error)


def _problems_in_cluster(membership: MemberClient) -> Iterator[Problem]:
    view = membership.view.value
    if membership.standing.value is Standing.ORPHANED:
        yield Problem(
            "orphaned",
            "the API server does not accept this member's credential; it serves until its certificate ends",
            "join again with a new token: exclave join --again",
        )
    if view and view.cloned and view.cloned.status:
        yield Problem("cloned", view.cloned.message, "find the other machine; it has this problem in its status, too")
    if view and view.registered and not view.registered.status:
        yield Problem(
            Fault.ADDRESS_REFUSED.word,
            view.registered.message,
            "name the address by which pods reach this machine: member.address in /etc/exclave/config.toml; or have "
            "the member that has it evicted, if that is not what it should be",
        )
    if (problem := membership.address_problem.value) is not None:
        if problem.is_overwritten:
            yield Problem("address-overwritten", problem.why, problem.hint)
        else:
            yield Problem("address-kept", problem.why, problem.hint)


def _reported_by_parts(parts: Parts) -> Iterator[tuple[Latest[str | None], Problem]]:
    """The published message of each open part's problem, and the problem without its message."""
    namespace = parts.record.namespace
    if parts.membership is not None:
        hint = "compare the versions of exclave here and in the cluster"
        yield parts.membership.problem, Problem("settings-unusable", "", hint)
    if parts.identity is not None:
        controller = "check whether exclave's controller runs, and read its log"
        # Under systemd the agent's mounts are its own, and stay read-only until it is started again.
        disk = "for a file that cannot be written, make its disk writable, then: systemctl restart exclave"
        yield parts.identity.problem, Problem("certificate-not-renewed", "", f"{controller}; {disk}")
        evict = f"kubectl exclave member evict {parts.record.member} -n {namespace}"
        hint = (
            "if this machine was restored from a snapshot, the key was its own, which the snapshot does not have; "
            f"otherwise somebody else has this member's credential: have it evicted ({evict}), then join again"
        )
        yield parts.identity.foreign, Problem("key-not-ours", "", hint)
    if parts.proxy is not None:
        yield (
            parts.proxy.problem,
            Problem(Fault.PROXY_UNUSABLE.word, "", "see the proxy's own log in the runtime folder"),
        )
        hint = "check whether Linkerd's policy controller runs, and which Servers select this group: "
        yield (
            parts.proxy.admin_denial,
            Problem("proxy-refuses", "", f"{hint}kubectl get servers.policy.linkerd.io -n {namespace}"),
        )
    if parts.swap is not None:
        hint = "read the agent's log; it is tried again, and exclave proxy swap tries now"
        yield parts.swap.problem, Problem("swap-given-up", "", hint)
    if parts.steering is not None:
        hint = "correct the group's spec or [redirect] in config.toml"
        yield parts.steering.problem, Problem(Fault.CONFIG_INVALID.word, "", hint)
