"""What kubectl says when it fails, told as exclave's own errors. Pure.

Rules: kubectl prints `Error from server (Reason): text`, or `The Kind "name" is invalid: text`, or a line of its own
when nobody answered or the kubeconfig does not fit. The first two become an `ApiRefusal` with the API's reason and
status, so that a caller can tell "there already" from "not permitted"; the words say what was asked for and what right
is missing. Source: StandardErrorMessage and checkErr in k8s.io/kubectl/pkg/cmd/util/helpers.go.
"""

import re
from dataclasses import dataclass

from exclave.api.requests import LONGEST_MESSAGE, WORTH_ANOTHER_TRY, Resource
from exclave.errors import ApiRefusal, ClusterError, ExclaveError, Fault

STATUSES = {
    "BadRequest": 400,
    "Unauthorized": 401,
    "Forbidden": 403,
    "NotFound": 404,
    "MethodNotAllowed": 405,
    "AlreadyExists": 409,
    "Conflict": 409,
    "Expired": 410,
    "Gone": 410,
    "RequestEntityTooLarge": 413,
    "Invalid": 422,
    "TooManyRequests": 429,
    "InternalError": 500,
    "ServiceUnavailable": 503,
    "ServerTimeout": 504,
    "Timeout": 504,
}
"""HTTP status of each reason. Source: StatusReason in k8s.io/apimachinery/pkg/apis/meta/v1/types.go."""

_FROM_SERVER = re.compile(r"^Error from server(?: \((?P<reason>[A-Za-z]+)\))?: (?P<text>.*)", re.DOTALL | re.MULTILINE)
_INVALID = re.compile(r'^(?P<text>The \S+ "[^"]*" is invalid: .*)', re.DOTALL | re.MULTILINE)
_UNAUTHORIZED = "You must be logged in to the server"
_NO_SUCH_TYPE = "the server could not find the requested resource"
_NOISE = re.compile(r"^(Warning: .*|[EIW]\d{4} [\d:.]+ .*)$", re.MULTILINE)
_UNREACHED = (
    "did you specify the right host or port",
    "Unable to connect to the server",
    "context deadline exceeded",
    "i/o timeout",
    "Client.Timeout",
    "unexpected EOF",
)
_KUBECONFIG = ("does not exist", "no such file or directory", "current-context must exist", "error loading config file")


@dataclass(frozen=True)
class KubectlAction:
    """What kubectl was asked to do: verb as RBAC names it, kind, and where."""

    verb: str
    resource: Resource | None = None
    namespace: str | None = None
    name: str = ""
    subresource: str = ""

    def __str__(self) -> str:
        if self.resource is None:
            return self.verb
        return f"{self.verb} {self.what}{' ' + self.name if self.name else ''}{self.where}"

    @property
    def what(self) -> str:
        """The resource as RBAC names it."""
        assert self.resource is not None
        return self.resource.plural + ("/" + self.subresource if self.subresource else "")

    @property
    def where(self) -> str:
        """Its place, as the end of a sentence."""
        return f" in namespace {self.namespace}" if self.namespace else ""


def kubectl_error(action: KubectlAction, told: str) -> ExclaveError:
    """The error for what kubectl printed on its standard error."""
    told = _NOISE.sub("", told).strip()
    if found := _FROM_SERVER.search(told):
        reason, text = found["reason"] or "", " ".join(found["text"].split())
    elif found := _INVALID.search(told):
        reason, text = "Invalid", " ".join(found["text"].split())
    elif _UNAUTHORIZED in told:
        reason, text = "Unauthorized", told.partition("(")[2].rstrip(")")
    else:
        return _nobody_answered(action, " ".join(told.split()).removeprefix("error: ")[:LONGEST_MESSAGE])
    status = STATUSES.get(reason, 500)
    message, hint = _words(action, reason, text, status)
    fault = Fault.UNREACHABLE if status in WORTH_ANOTHER_TRY else Fault.NOT_PERMITTED
    return ApiRefusal(status, reason, f"{message}: {text[:LONGEST_MESSAGE]}", hint, fault=fault)


def kubectl_missing_error(binary: str) -> ExclaveError:
    """The error where there is no such program."""
    return ExclaveError(
        Fault.USAGE,
        f"{binary} was expected on the PATH, and is not there",
        "install kubectl (https://kubernetes.io/docs/tasks/tools/), and see that it reaches the cluster",
    )


def kubectl_timeout_error(action: KubectlAction, seconds: float) -> ExclaveError:
    """The error when kubectl did not end by itself."""
    return ClusterError(
        Fault.UNREACHABLE,
        f"kubectl was to {action}, and had not ended after {seconds:.0f}s",
        "see whether kubectl works by itself, and whether it asks you to log in: kubectl get namespaces",
    )


def _words(action: KubectlAction, reason: str, text: str, status: int) -> tuple[str, str]:
    """What was met, and what to do."""
    if status in WORTH_ANOTHER_TRY:
        return f"the API server could not {action} now", "it is busy, starting or stopping: try again"
    if reason == "Unauthorized":
        return f"the API server does not know who wants to {action}", "log in again, or name a context: --context"
    if reason == "Forbidden" and ("denied request" in text or "denied the request" in text):
        return f"an admission rule of the cluster refused to {action}", "do as it asks, or ask whoever made it"
    if reason == "Forbidden":
        return f"you may not {action}", _missing_right(action)
    if reason == "NotFound" and _NO_SUCH_TYPE in text:
        return f"the cluster could not {action}, since it has no such kind", _missing_kind(action)
    if reason == "NotFound":
        return f"there is nothing to {action}", "check its name and namespace"
    if reason in ("AlreadyExists", "Conflict"):
        return f"the API server did not {action}", "somebody else changed it: look at it, then try again"
    return f"the API server refused to {action}", "mend what the message names"


def _missing_right(action: KubectlAction) -> str:
    if action.resource is None:
        return "ask the cluster's admin for this right, or name another context: --context"
    group = f" (API group {action.resource.group})" if action.resource.group else ""
    return (
        f"ask the cluster's admin for the right to {action.verb} {action.what}{group}{action.where}, "
        "or name another context: --context"
    )


def _missing_kind(action: KubectlAction) -> str:
    group = action.resource.group if action.resource else ""
    if group == "exclave.dev":
        return "install exclave in this cluster: kubectl exclave install; or name another context: --context"
    if group.endswith("linkerd.io"):
        return "install Linkerd in this cluster first; or name another context: --context"
    return "Kubernetes 1.30 or newer is needed; or name another context: --context"


def _nobody_answered(action: KubectlAction, text: str) -> ExclaveError:
    if any(sign in text for sign in _UNREACHED):
        return ClusterError(
            Fault.UNREACHABLE,
            f"kubectl was to {action}, and reached no API server: {text}",
            "check the context (kubectl config current-context) and the network, or name a context: --context",
        )
    if any(sign in text for sign in _KUBECONFIG):
        return ExclaveError(
            Fault.USAGE,
            f"kubectl knows no such cluster: {text}",
            "name one of `kubectl config get-contexts` by --context, or a file by --kubeconfig",
        )
    return ClusterError(
        Fault.UNREACHABLE,
        f"kubectl could not {action}: {text or 'it said nothing'}",
        "see whether kubectl works by itself: kubectl get namespaces",
    )
