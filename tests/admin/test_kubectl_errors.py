"""What kubectl says, and what an admin is stderr: every text word for word. kubectl's are its own, of release 1.37."""

import pytest

from exclave.admin.kubectl_errors import (
    STATUSES,
    KubectlAction,
    kubectl_error,
    kubectl_missing_error,
    kubectl_timeout_error,
)
from exclave.api.requests import EXTERNAL_WORKLOADS, MEMBERS, PODS, SERVICE_ACCOUNTS, WORKLOAD_GROUPS
from exclave.errors import ApiRefusal, Fault

MAKE = KubectlAction("create", WORKLOAD_GROUPS, "shop", "web")
READ = KubectlAction("list", PODS, "shop")

FROM_SERVER = [
    pytest.param(
        READ,
        'Error from server (Forbidden): pods is forbidden: User "bob" cannot list resource "pods" in API group "" in '
        'the namespace "shop"',
        (403, "Forbidden", Fault.NOT_PERMITTED),
        'you may not list pods in namespace shop: pods is forbidden: User "bob" cannot list resource "pods" in API '
        'group "" in the namespace "shop"',
        "ask the cluster's admin for the right to list pods in namespace shop, or name another context: --context",
        id="a right is missing",
    ),
    pytest.param(
        MAKE,
        "Error from server (Forbidden): workloadgroups is forbidden",
        (403, "Forbidden", Fault.NOT_PERMITTED),
        "you may not create workloadgroups web in namespace shop: workloadgroups is forbidden",
        "ask the cluster's admin for the right to create workloadgroups (API group exclave.dev) in namespace shop, or "
        "name another context: --context",
        id="a right in an API group is missing",
    ),
    pytest.param(
        MAKE,
        "Error from server (Forbidden): workloadgroups \"web\" is forbidden: ValidatingAdmissionPolicy 'p' with "
        "binding 'p' denied request: not on Fridays",
        (403, "Forbidden", Fault.NOT_PERMITTED),
        "an admission policy of the cluster refused to create workloadgroups web in namespace shop: workloadgroups "
        "\"web\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p' denied request: not on Fridays",
        "follow the message, or ask the policy's author",
        id="an admission policy refuses",
    ),
    pytest.param(
        KubectlAction("get", PODS, "shop", "a"),
        'Error from server (NotFound): pods "a" not found',
        (404, "NotFound", Fault.NOT_PERMITTED),
        'there is nothing to get pods a in namespace shop: pods "a" not found',
        "check its name and namespace",
        id="it is not there",
    ),
    pytest.param(
        KubectlAction("list", MEMBERS),
        "Error from server (NotFound): the server could not find the requested resource",
        (404, "NotFound", Fault.NOT_PERMITTED),
        "the cluster cannot list members: it has no such kind: the server could not find the requested resource",
        "install exclave in this cluster: kubectl exclave install; or name another context: --context",
        id="exclave is not installed",
    ),
    pytest.param(
        KubectlAction("get", EXTERNAL_WORKLOADS, "shop", "a"),
        "Error from server (NotFound): the server could not find the requested resource",
        (404, "NotFound", Fault.NOT_PERMITTED),
        "the cluster cannot get externalworkloads a in namespace shop: it has no such kind: the server could "
        "not find the requested resource",
        "install Linkerd in this cluster first; or name another context: --context",
        id="Linkerd is not installed",
    ),
    pytest.param(
        MAKE,
        'Error from server (AlreadyExists): workloadgroups "web" already exists',
        (409, "AlreadyExists", Fault.NOT_PERMITTED),
        'the API server did not create workloadgroups web in namespace shop: workloadgroups "web" already exists',
        "it exists already or was changed meanwhile: look at it, then try again",
        id="it is there already",
    ),
    pytest.param(
        MAKE,
        'The WorkloadGroup "x.b" is invalid: \n* spec.networks: Invalid value: 0\n* <nil>: Invalid value: a name',
        (422, "Invalid", Fault.NOT_PERMITTED),
        'the API server refused to create workloadgroups web in namespace shop: The WorkloadGroup "x.b" is invalid: '
        "* spec.networks: Invalid value: 0 * <nil>: Invalid value: a name",
        "correct what the message names",
        id="it is invalid",
    ),
    pytest.param(
        READ,
        "error: You must be logged in to the server (Unauthorized)",
        (401, "Unauthorized", Fault.NOT_PERMITTED),
        "the API server does not know who wants to list pods in namespace shop: Unauthorized",
        "log in again, or name a context: --context",
        id="nobody is logged in",
    ),
    pytest.param(
        READ,
        "Error from server (ServiceUnavailable): apiserver not ready",
        (503, "ServiceUnavailable", Fault.UNREACHABLE),
        "the API server could not list pods in namespace shop now: apiserver not ready",
        "it is busy, starting or stopping: try again later",
        id="it is starting",
    ),
    pytest.param(
        READ,
        "Error from server: etcdserver: leader changed",
        (500, "", Fault.UNREACHABLE),
        "the API server could not list pods in namespace shop now: etcdserver: leader changed",
        "it is busy, starting or stopping: try again later",
        id="it gives no reason",
    ),
    pytest.param(
        READ,
        'Warning: old\nE1124 01:57:03.1 19298 memcache.go:265] "Unhandled"\nError from server (Timeout): slow',
        (504, "Timeout", Fault.UNREACHABLE),
        "the API server could not list pods in namespace shop now: slow",
        "it is busy, starting or stopping: try again later",
        id="kubectl warns of something else before",
    ),
]


@pytest.mark.parametrize(("action", "stderr", "kind", "message", "hint"), FROM_SERVER)
def test_a_refusal_of_the_api_server(
    action: KubectlAction, stderr: str, kind: tuple[int, str, Fault], message: str, hint: str
) -> None:
    error = kubectl_error(action, stderr)
    assert isinstance(error, ApiRefusal)
    assert (error.status, error.reason, error.fault) == kind
    assert (error.message, error.hint) == (message, hint)


@pytest.mark.parametrize(
    ("stderr", "fault", "message", "hint"),
    [
        pytest.param(
            "The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?",
            Fault.UNREACHABLE,
            "kubectl was asked to list pods in namespace shop and did not reach the API server: The connection to the "
            "server 127.0.0.1:1 was refused - did you specify the right host or port?",
            "check the context (kubectl config current-context) and the network, or name a context: --context",
            id="nobody listens",
        ),
        pytest.param(
            "Unable to connect to the server: dial tcp: lookup nope.invalid: no such host",
            Fault.UNREACHABLE,
            "kubectl was asked to list pods in namespace shop and did not reach the API server: Unable to connect to "
            "the server: dial tcp: lookup nope.invalid: no such host",
            "check the context (kubectl config current-context) and the network, or name a context: --context",
            id="the name is not known",
        ),
        pytest.param(
            'error: context "nope" does not exist',
            Fault.USAGE,
            'kubectl does not find this cluster in the kubeconfig: context "nope" does not exist',
            "name a context of `kubectl config get-contexts` with --context, or a file with --kubeconfig",
            id="there is no such context",
        ),
        pytest.param(
            "",
            Fault.UNREACHABLE,
            "kubectl could not list pods in namespace shop: it printed no reason",
            "check whether kubectl works: kubectl get namespaces",
            id="kubectl says nothing",
        ),
    ],
)
def test_kubectls_own_errors(stderr: str, fault: Fault, message: str, hint: str) -> None:
    error = kubectl_error(READ, stderr)
    assert (error.fault, error.message, error.hint) == (fault, message, hint)


def test_a_missing_kubectl() -> None:
    error = kubectl_missing_error("kubectl")
    assert (error.fault, error.message) == (Fault.USAGE, "the program kubectl was not found on the PATH")
    assert error.hint.startswith("install kubectl: https://kubernetes.io/docs/tasks/tools/")


def test_a_kubectl_that_does_not_end() -> None:
    error = kubectl_timeout_error(READ, 300.0)
    assert error.fault is Fault.UNREACHABLE
    assert error.message == "kubectl was asked to list pods in namespace shop and did not end within 300s"
    assert error.hint == "check whether kubectl works, and whether it asks you to log in: kubectl get namespaces"


def test_a_subresource_is_named_as_rbac_names_it() -> None:
    action = KubectlAction("create", SERVICE_ACCOUNTS, "shop-vms", "a", "token")
    assert str(action) == "create serviceaccounts/token a in namespace shop-vms"


def test_a_long_text_is_cut() -> None:
    error = kubectl_error(READ, "Error from server (BadRequest): " + "x" * 5000)
    assert len(error.message) < 1100


def test_every_reason_is_an_error() -> None:
    assert all(400 <= status < 600 for status in STATUSES.values())
