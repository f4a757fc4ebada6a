"""Whether Linkerd's controllers answer, from pages of a real linkerd2-proxy's metrics, cut to the lines that count."""

import pytest

from exclave.data_path.control_plane import (
    SILENCE,
    ControllerHealth,
    ControllerSample,
    ControlPlaneHealth,
    sample_connections,
    sample_controllers,
)
from exclave.kit.host.sockets import ESTABLISHED, Socket

DESTINATION = 'addr="linkerd-dst-headless.linkerd.svc.cluster.local:8086"'
POLICY = 'addr="linkerd-policy.linkerd.svc.cluster.local:8090"'
TLS = 'tls="true",server_id="linkerd-destination.linkerd.serviceaccount.identity.linkerd.cluster.local"'

PAGE = f"""\
# HELP control_request_total Total count of HTTP requests.
# TYPE control_request_total counter
control_request_total{{{POLICY},{TLS}}} 3
control_request_total{{{DESTINATION},{TLS}}} 1
control_response_latency_ms_bucket{{{POLICY},{TLS},status_code="200",le="1"}} 1
control_response_latency_ms_count{{{POLICY},{TLS},status_code="200"}} 1
control_response_latency_ms_count{{{POLICY},{TLS},status_code="503"}} 1
control_response_latency_ms_count{{{DESTINATION},{TLS},status_code="200"}} 1
control_destination_balancer_endpoints{{endpoint_state="ready",{DESTINATION}}} 1
control_destination_balancer_endpoints{{endpoint_state="pending",{DESTINATION}}} 0
control_destination_balancer_p2c_endpoints{{{DESTINATION}}} 1
control_policy_balancer_endpoints{{endpoint_state="pending",{POLICY}}} 1
control_policy_balancer_endpoints{{endpoint_state="ready",{POLICY}}} 0
outbound_http_balancer_endpoints{{endpoint_state="pending",parent_name="orders"}} 7
"""


def test_controllers_are_sampled_from_a_page() -> None:
    assert sample_controllers(PAGE) == {"destination": ControllerSample(1, 1, 1), "policy": ControllerSample(0, 3, 2)}


def test_a_controller_with_several_pods_is_connected_to_one_at_least() -> None:
    pending = f'control_policy_balancer_endpoints{{endpoint_state="pending",{POLICY}}} 2'
    ready = f'control_policy_balancer_endpoints{{endpoint_state="ready",{POLICY}}} 1'
    assert sample_controllers(f"{pending}\n{ready}\n") == {"policy": ControllerSample(1, 0, 0)}


@pytest.mark.parametrize("page", ["", "control_identity_cert_refreshes_total 3\n", "<html>"])
def test_a_page_without_controllers_gives_no_sample(page: str) -> None:
    assert sample_controllers(page) == {}
    assert ControlPlaneHealth().observe(sample_controllers(page), 0.0).is_available(0.0) is None


UP, DOWN = ControllerSample(1, 5, 5), ControllerSample(0, 5, 5)


def health_after(*samples: tuple[float, ControllerSample]) -> ControllerHealth:
    controller = ControllerHealth()
    for now, sample in samples:
        controller = controller.observe(sample, now)
    return controller


POLLS: dict[str, tuple[list[tuple[float, ControllerSample]], bool | None]] = {
    "connected": ([(0, UP)], True),
    "one sample without a connection does not count": ([(0, UP), (1, DOWN)], True),
    "two are": ([(0, UP), (1, DOWN), (2, DOWN)], False),
    "one sample without a connection is no answer yet": ([(0, DOWN)], None),
    "it may also begin so": ([(0, DOWN), (1, DOWN)], False),
    "one sample with a connection counts": ([(0, UP), (1, DOWN), (2, DOWN), (3, UP)], True),
    "a question is not answered yet": ([(0, UP), (5, ControllerSample(1, 6, 5))], True),
    "nor the ones after it, for too long": (
        [(0, UP), (5, ControllerSample(1, 6, 5)), (10, ControllerSample(1, 7, 5)), (15, ControllerSample(1, 9, 5))],
        False,
    ),
    "one answer will do": (
        [(0, UP), (5, ControllerSample(1, 6, 5)), (10, ControllerSample(1, 7, 5)), (15, ControllerSample(1, 9, 6))],
        True,
    ),
    "a cancelled request does not count for ever": (
        [(0, UP), (5, ControllerSample(1, 6, 5)), (10, ControllerSample(1, 6, 5)), (15, ControllerSample(1, 6, 5))],
        True,
    ),
    "questions and answers of another process": (
        [(0, UP), (5, ControllerSample(1, 6, 5)), (14, ControllerSample(1, 7, 5)), (15, ControllerSample(1, 2, 0))],
        True,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("samples", "is_available"), POLLS.values(), ids=POLLS)
def test_samples_of_one_controller_give_its_health(
    samples: list[tuple[float, ControllerSample]], is_available: bool | None
) -> None:
    assert health_after(*samples).is_available(samples[-1][0]) is is_available


def test_both_controllers_are_needed() -> None:
    both = ControlPlaneHealth()
    for now in (0.0, 1.0):
        both = both.observe({"destination": UP, "policy": UP}, now)
    assert both.is_available(1.0) is True and both.is_settled
    for now in (2.0, 3.0):
        both = both.observe({"destination": UP, "policy": DOWN}, now)
        assert not both.is_settled
    assert both.is_available(3.0) is False


def test_the_health_of_a_controller_without_a_sample_stays() -> None:
    both = ControlPlaneHealth().observe({"destination": UP, "policy": DOWN}, 0.0).observe({}, 1.0).observe({}, 2.0)
    assert both.is_available(2.0) is None  # of the one that was never there
    assert both.observe({"policy": UP}, 3.0).is_available(3.0) is True


def test_the_proxy_repeats_a_request_before_silence_counts() -> None:
    """Its streams wait three seconds for their first item (CONTROL_STREAM_INITIAL_TIMEOUT), then a back-off."""
    assert SILENCE >= 3 * 3.0


UID, ELSE = 65534, 1000
PLANE = {"destination": ("10.42.0.2", "10.42.0.3"), "policy": ("10.42.0.2",)}


def socket(address: str, port: int, *, state: int = ESTABLISHED, uid: int = UID) -> Socket:
    return Socket(("10.77.0.20", 40000), (address, port), state, uid, 77)


CONNECTIONS: dict[str, tuple[list[Socket], int, int]] = {
    "none": ([], 0, 0),
    "one to each": ([socket("10.42.0.2", 8086), socket("10.42.0.2", 8090)], 1, 1),
    "any of several pods": ([socket("10.42.0.3", 8086)], 1, 0),
    "one that is not made yet": ([socket("10.42.0.2", 8086, state=0x02)], 0, 0),
    "that of another user": ([socket("10.42.0.2", 8090, uid=ELSE)], 0, 0),
    "a program's own, through the proxy": ([socket("10.42.0.9", 8086)], 0, 0),
    "the wrong port": ([socket("10.42.0.2", 8080)], 0, 0),
}


@pytest.mark.parametrize(("sockets", "destination", "policy"), CONNECTIONS.values(), ids=CONNECTIONS)
def test_controllers_are_sampled_from_the_kernel_s_connections(
    sockets: list[Socket], destination: int, policy: int
) -> None:
    found = sample_connections(sockets, UID, **PLANE)
    assert found == {"destination": ControllerSample(destination, 0, 0), "policy": ControllerSample(policy, 0, 0)}


def test_a_controller_without_addresses_is_left_out() -> None:
    assert sample_connections([socket("10.42.0.2", 8090)], UID, (), ("10.42.0.2",)) == {
        "policy": ControllerSample(1, 0, 0)
    }


def test_a_request_open_when_the_metrics_were_denied_does_not_count_as_silence() -> None:
    open_question = {name: ControllerSample(1, 2, 1) for name in PLANE}
    health = (
        ControlPlaneHealth()
        .observe({name: ControllerSample(1, 1, 1) for name in PLANE}, 0.0)
        .observe(open_question, 1.0)
    )
    for now in range(2, 60):
        health = health.observe({name: ControllerSample(1, 0, 0) for name in PLANE}, float(now))
        assert health.is_available(float(now))
