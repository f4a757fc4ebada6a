"""The admin's own kubectl, as the one door to the cluster: whoever may use the cluster may use exclave.

Rules: kubectl finds the cluster and says who the admin is; nothing of either is read or kept here, except the cluster's
address and CA, which join tokens carry. Reads and writes go by raw paths, so that nothing has to be discovered first;
only merge patches, server-side apply and a delete that waits use kubectl's own verbs. Bodies and secrets go through
standard input and come back through standard output: no argument list, no error and no log ever holds one.
What kubectl says when it fails is told by `failure`. Raises ExclaveError, and nothing else.
"""

import base64
import binascii
import json
import subprocess
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

from exclave.admin.kubectl_errors import KubectlAction, kubectl_error, kubectl_missing_error, kubectl_timeout_error
from exclave.api.requests import SERVICE_ACCOUNTS, Object, Resource, create_token, path_of
from exclave.cluster.credential import is_token
from exclave.errors import ApiRefusal, ClusterError, Fault

Objects = list[Object]

FIELD_MANAGER = "exclave"

PAGE = 500
"""Objects in one answer; kubectl's own number."""

LONGEST_REQUEST = 60
"""Seconds that the API server has for one request."""

LONGEST_RUN = 300.0
"""Seconds for a whole run of kubectl: it may have to ask its user to log in."""

_REVIEWS = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False)


class ClusterAddress(NamedTuple):
    """Where kubectl finds the API server, and the CA (PEM) by which it knows it; "" if the kubeconfig names none."""

    server: str
    ca: str


class Kubectl:
    """The cluster as kubectl reaches it; None stands for kubectl's own choice. `user` and `groups` are impersonated."""

    def __init__(
        self,
        context: str | None = None,
        kubeconfig: str | None = None,
        binary: str = "kubectl",
        user: str | None = None,
        groups: Sequence[str] = (),
    ) -> None:
        self._command = [binary, f"--request-timeout={LONGEST_REQUEST}s"]
        self._command += [f"--context={context}"] if context is not None else []
        self._command += [f"--kubeconfig={kubeconfig}"] if kubeconfig is not None else []
        self._command += [f"--as={user}"] if user else []
        self._command += [f"--as-group={group}" for group in groups]
        self._known: Object | None = None

    # What is read.

    def get(self, resource: Resource, namespace: str | None, name: str) -> Object | None:
        """One object; None if there is none of that name."""
        action = KubectlAction("get", resource, namespace, name)
        try:
            return self._ask(action, ["get", "--raw", path_of(resource, namespace, name)])
        except ApiRefusal as refusal:
            if _is_absent(refusal):
                return None
            raise

    def list(self, resource: Resource, namespace: str | None = None, selector: str = "", fields: str = "") -> Objects:
        """All objects of a kind, in one namespace or (None) in all, that match label and field selectors."""
        wanted = {"labelSelector": selector, "fieldSelector": fields}
        query = {key: text for key, text in wanted.items() if text}
        try:
            return self._pages(resource, namespace, {**query, "limit": str(PAGE)})
        except ApiRefusal as refusal:
            if refusal.status != 410:
                raise
        return self._pages(resource, namespace, query)  # the list had become too old between two pages

    def _pages(self, resource: Resource, namespace: str | None, query: dict[str, str]) -> Objects:
        found: Objects = []
        action = KubectlAction("list", resource, namespace)
        while True:
            asked = "?" + urlencode(query) if query else ""
            answer = self._ask(action, ["get", "--raw", path_of(resource, namespace) + asked])
            # The items of a list of a built-in kind do not name their kind.
            found += [
                {"apiVersion": resource.api_version, "kind": resource.kind, **item}
                for item in answer.get("items") or ()
            ]
            token = (answer.get("metadata") or {}).get("continue")
            if not token:
                return found
            query = {**query, "continue": token}

    def server_version(self) -> str:
        """The API server's version, such as v1.37.2."""
        return str(self._ask(KubectlAction("read the version"), ["get", "--raw", "/version"]).get("gitVersion", ""))

    def can_i(
        self, verb: str, resource: Resource, namespace: str | None = None, name: str = "", subresource: str = ""
    ) -> bool:
        """Whether the admin has a right."""
        asked = {
            "verb": verb,
            "group": resource.group,
            "resource": resource.plural,
            "subresource": subresource,
            "namespace": namespace or "",
            "name": name,
        }
        body = {"apiVersion": _REVIEWS.api_version, "kind": _REVIEWS.kind, "spec": {"resourceAttributes": asked}}
        answer = self._post(KubectlAction("create", _REVIEWS), path_of(_REVIEWS, None), body)
        return (answer.get("status") or {}).get("allowed") is True

    # What is written.

    def create(self, resource: Resource, namespace: str | None, body: Object) -> Object:
        """Make an object. Raises ApiRefusal with reason AlreadyExists if there is one of its name."""
        name = str((body.get("metadata") or {}).get("name", ""))
        return self._post(KubectlAction("create", resource, namespace, name), path_of(resource, namespace), body)

    def apply(self, objects: Sequence[Object], *, force: bool = False, dry_run: bool = False) -> None:
        """Bring objects to what these say (server-side apply); `force` takes fields from other owners.

        `dry_run`: the API server says whether it would, and keeps nothing.
        """
        arguments = ["apply", "--server-side", f"--field-manager={FIELD_MANAGER}", "--filename=-"]
        arguments += ["--force-conflicts"] if force else []
        arguments += ["--dry-run=server"] if dry_run else []
        body = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self._run(KubectlAction("apply these objects"), arguments, body)

    def patch(self, resource: Resource, namespace: str | None, name: str, body: Object) -> Object:
        """Merge into an object (RFC 7386): null removes a key, lists are replaced whole."""
        arguments = ["patch", _type(resource), name, *_in(namespace), "--type=merge", "--patch-file=/dev/stdin"]
        return self._ask(KubectlAction("patch", resource, namespace, name), [*arguments, "--output=json"], body)

    def delete(self, resource: Resource, namespace: str | None, name: str, wait: bool = False) -> bool:
        """Delete an object; False if it was gone already. `wait`: until its finalizers are off, too, a minute long."""
        action = KubectlAction("delete", resource, namespace, name)
        try:
            if wait:
                arguments = ["delete", _type(resource), name, *_in(namespace), f"--timeout={LONGEST_REQUEST}s"]
                self._run(action, arguments)
            else:
                self._ask(action, ["delete", "--raw", path_of(resource, namespace, name)])
        except ApiRefusal as refusal:
            if _is_absent(refusal):
                return False
            raise
        return True

    def create_token(self, namespace: str, account: str, seconds: int) -> str:
        """A token of a ServiceAccount for the API server; it may have been granted less life than asked for."""
        request = create_token(namespace, account, seconds)
        action = KubectlAction("create", SERVICE_ACCOUNTS, namespace, account, "token")
        token = (self._post(action, request.path, request.body or {}).get("status") or {}).get("token")
        if not is_token(token):
            raise ClusterError(
                Fault.UNREACHABLE,
                f"the API server was to {action}, and answered without a token",
                "see whether whatever stands before the API server changes its answers",
            )
        return str(token)

    # Where it is.

    def cluster(self) -> ClusterAddress:
        """The API server's address and CA, from the kubeconfig."""
        cluster = _first(self._config(), "clusters", "cluster")
        try:
            ca = base64.b64decode(cluster.get("certificate-authority-data") or "", validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            ca = ""
        return ClusterAddress(str(cluster.get("server") or ""), ca)

    def namespace(self) -> str:
        """The namespace that the context names; `default`, as kubectl has it, if it names none."""
        return str(_first(self._config(), "contexts", "context").get("namespace") or "default")

    def _config(self) -> Object:
        if self._known is None:
            # --flatten puts files into it, found as kubectl finds them.
            arguments = ["config", "view", "--minify", "--flatten", "--raw", "--output=json"]
            self._known = self._ask(KubectlAction("read the kubeconfig"), arguments)
        return self._known

    # kubectl itself.

    def _post(self, action: KubectlAction, path: str, body: Object) -> Object:
        return self._ask(action, ["create", "--raw", path, "--filename=-"], body)

    def _ask(self, action: KubectlAction, arguments: Sequence[str], body: Object | None = None) -> Object:
        told = self._run(action, arguments, body)
        try:
            answer = json.loads(told)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ClusterError(
                Fault.UNREACHABLE,
                f"the API server was to {action}, and did not answer in JSON",
                "see whether whatever stands before the API server changes its answers",
            )
        return answer

    def _run(self, action: KubectlAction, arguments: Sequence[str], body: Object | None = None) -> str:
        text = None if body is None else json.dumps(body)
        try:
            done = subprocess.run(
                [*self._command, *arguments],
                input=text,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=LONGEST_RUN,
                check=False,
            )
        except (FileNotFoundError, PermissionError):
            raise kubectl_missing_error(self._command[0]) from None
        except subprocess.TimeoutExpired:
            raise kubectl_timeout_error(action, LONGEST_RUN) from None
        if done.returncode != 0:
            raise kubectl_error(action, done.stderr)
        return done.stdout


def _is_absent(refusal: ApiRefusal) -> bool:
    """True if the object is not there; a kind that is not there is another matter."""
    return refusal.reason == "NotFound" and "no such kind" not in refusal.message


def _type(resource: Resource) -> str:
    """A kind as kubectl's verbs take it."""
    return f"{resource.plural}.{resource.version}.{resource.group}" if resource.group else resource.plural


def _in(namespace: str | None) -> list[str]:
    return [] if namespace is None else [f"--namespace={namespace}"]


def _first(config: Object, key: str, inner: str) -> dict[str, Any]:
    """The one entry that --minify leaves."""
    entries = config.get(key) or [{}]
    found = entries[0].get(inner) if isinstance(entries[0], dict) else None
    return found if isinstance(found, dict) else {}
