"""kubectl's failures as exclave's own errors. Pure.

kubectl prints `Error from server (Reason): text`, or `The Kind "name" is invalid: text`, which become an `ApiRefusal`,
or its own line if the server did not answer or the kubeconfig is wrong.
Source: StandardErrorMessage and checkErr in k8s.io/kubectl/pkg/cmd/util/helpers.go.
"""

import re
from dataclasses import dataclass

from exclave.api.requests import LONGEST_MESSAGE, WORTH_ANOTHER_TRY, Resource
from exclave.errors import ApiRefusal, ClusterError, ExclaveError, Fault, UsageError

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
_CONFLICTS = re.compile(
    r"Apply failed with \d+ conflicts?: (.*?)(?:^Please review the fields above|\Z)", re.DOTALL | re.M
)
_OWNER = re.compile(
    r'conflicts? with "(?P<manager>[^"\n]*)"(?: with subresource "[^"\n]*")?(?P<update> using \S+(?: at \S+Z)?)?:'
    r"(?P<fields>.*?)(?=\n?conflicts? with \"|\Z)",
    re.DOTALL,
)
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
    """The action of a kubectl call: verb and resource as in RBAC."""

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
        """The resource as in RBAC, with its subresource."""
        assert self.resource is not None
        return self.resource.plural + ("/" + self.subresource if self.subresource else "")

    @property
    def where(self) -> str:
        """Its namespace, as the end of a sentence."""
        return f" in namespace {self.namespace}" if self.namespace else ""


@dataclass(frozen=True)
class FieldOwner:
    """A program that has set fields of an object. `applies`: by server-side apply, so it will set them again."""

    manager: str
    fields: tuple[str, ...]
    applies: bool


class FieldConflicts(ApiRefusal):
    """A server-side apply without force would change fields that these programs have set."""

    def __init__(self, owners: tuple[FieldOwner, ...]) -> None:
        names = ", ".join(dict.fromkeys(one.manager for one in owners))
        problem = f"the API server did not apply these objects: other programs have set fields of them: {names}"
        super().__init__(409, "Conflict", problem, "look at the managedFields of the objects, then try again")
        self.owners = owners


def field_owners(stderr: str) -> tuple[FieldOwner, ...]:
    """The owners in kubectl's message about conflicts; empty if it is about something else.

    Source: NewConflictError in k8s.io/apimachinery/pkg/util/managedfields/internal/conflict.go: "using" and a version
    follow the names of programs that update.
    """
    return tuple(
        FieldOwner(
            owner["manager"],
            tuple(line.strip().removeprefix("- ") for line in owner["fields"].strip().splitlines()),
            applies=owner["update"] is None,
        )
        for conflicts in _CONFLICTS.findall(stderr)
        for owner in _OWNER.finditer(conflicts)
    )


def kubectl_error(action: KubectlAction, stderr: str) -> ExclaveError:
    """The error for kubectl's standard error."""
    stderr = _NOISE.sub("", stderr).strip()
    if owners := field_owners(stderr):
        return FieldConflicts(owners)
    if found := _FROM_SERVER.search(stderr):
        reason, text = found["reason"] or "", " ".join(found["text"].split())
    elif found := _INVALID.search(stderr):
        reason, text = "Invalid", " ".join(found["text"].split())
    elif _UNAUTHORIZED in stderr:
        reason, text = "Unauthorized", stderr.partition("(")[2].rstrip(")")
    else:
        return _local_error(action, " ".join(stderr.split()).removeprefix("error: ")[:LONGEST_MESSAGE])
    status = STATUSES.get(reason, 500)
    message, hint = _explain(action, reason, text, status)
    fault = Fault.UNREACHABLE if status in WORTH_ANOTHER_TRY else Fault.NOT_PERMITTED
    return ApiRefusal(status, reason, f"{message}: {text[:LONGEST_MESSAGE]}", hint, fault=fault)


def kubectl_missing_error(binary: str) -> ExclaveError:
    """The error if the program does not exist."""
    hint = "install kubectl: https://kubernetes.io/docs/tasks/tools/"
    return UsageError(f"the program {binary} was not found on the PATH", hint)


def kubectl_timeout_error(action: KubectlAction, seconds: float) -> ExclaveError:
    """The error if kubectl did not end in time."""
    return ClusterError(
        Fault.UNREACHABLE,
        f"kubectl was asked to {action} and did not end within {seconds:.0f}s",
        "check whether kubectl works, and whether it asks you to log in: kubectl get namespaces",
    )


def _explain(action: KubectlAction, reason: str, text: str, status: int) -> tuple[str, str]:
    """Message and hint."""
    if status in WORTH_ANOTHER_TRY:
        return f"the API server could not {action} now", "it is busy, starting or stopping: try again later"
    if reason == "Unauthorized":
        return f"the API server does not know who wants to {action}", "log in again, or name a context: --context"
    if reason == "Forbidden" and ("denied request" in text or "denied the request" in text):
        hint = "follow the message, or ask the policy's author"
        return f"an admission policy of the cluster refused to {action}", hint
    if reason == "Forbidden":
        return f"you may not {action}", _missing_right(action)
    if reason == "NotFound" and _NO_SUCH_TYPE in text:
        return f"the cluster cannot {action}: it has no such kind", _missing_kind(action)
    if reason == "NotFound":
        return f"there is nothing to {action}", "check its name and namespace"
    if reason in ("AlreadyExists", "Conflict"):
        hint = "it exists already or was changed meanwhile: look at it, then try again"
        return f"the API server did not {action}", hint
    return f"the API server refused to {action}", "correct what the message names"


def _missing_right(action: KubectlAction) -> str:
    right = "this right"
    if action.resource is not None:
        group = f" (API group {action.resource.group})" if action.resource.group else ""
        right = f"the right to {action.verb} {action.what}{group}{action.where}"
    return f"ask the cluster's admin for {right}, or name another context: --context"


def _missing_kind(action: KubectlAction) -> str:
    group = action.resource.group if action.resource else ""
    if group == "exclave.dev":
        return "install exclave in this cluster: kubectl exclave install; or name another context: --context"
    if group.endswith("linkerd.io"):
        return "install Linkerd in this cluster first; or name another context: --context"
    return "Kubernetes 1.30 or newer is needed; or name another context: --context"


def _local_error(action: KubectlAction, text: str) -> ExclaveError:
    if any(sign in text for sign in _UNREACHED):
        hint = "check the context (kubectl config current-context) and the network, or name a context: --context"
        problem = f"kubectl was asked to {action} and did not reach the API server: {text}"
        return ClusterError(Fault.UNREACHABLE, problem, hint)
    if any(sign in text for sign in _KUBECONFIG):
        return UsageError(
            f"kubectl does not find this cluster in the kubeconfig: {text}",
            "name a context of `kubectl config get-contexts` with --context, or a file with --kubeconfig",
        )
    problem = f"kubectl could not {action}: {text or 'it printed no reason'}"
    return ClusterError(Fault.UNREACHABLE, problem, "check whether kubectl works: kubectl get namespaces")
