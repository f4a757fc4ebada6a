"""The admin's own kubectl: the only way from the admin's commands to the cluster. Raises only ExclaveError.

kubectl finds the cluster and authenticates the admin. Requests use raw paths, which need no discovery; merge patches
and server-side apply need kubectl's own verbs. Bodies and secrets go through standard input and output, never into an
argument list, an error or a log.
"""

import base64
import binascii
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from exclave.admin.kubectl_errors import KubectlAction, kubectl_error, kubectl_missing_error, kubectl_timeout_error
from exclave.admin.objects import FIELD_MANAGER
from exclave.api.requests import SERVICE_ACCOUNTS, Object, Resource, create_token, path_of
from exclave.cluster.credential import is_token
from exclave.errors import ApiRefusal, ClusterError, Fault
from exclave.kit.formats.json_text import parse_json_cut

Objects = list[Object]

PAGE = 500  # objects in one answer; kubectl's own number
LONGEST_REQUEST = 60  # seconds for one request to the API server
LONGEST_RUN = 300.0  # seconds for one run of kubectl, which may ask its user to log in

_REVIEWS = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False)


@dataclass(frozen=True)
class KubeconfigCluster:
    """The cluster of the admin's context; what the kubeconfig has not is empty. `ca`: the bytes of PEM."""

    server: str
    tls_name: str
    proxy: str
    ca: bytes
    skips_verification: bool


class Kubectl:
    """The cluster as kubectl reaches it. None means kubectl's default. `user` and `groups` are impersonated."""

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
        self._kubeconfig: Object | None = None

    # Reading.

    def get(self, resource: Resource, namespace: str | None, name: str) -> Object | None:
        """One object, None if it does not exist."""
        action = KubectlAction("get", resource, namespace, name)
        try:
            return self._ask(action, ["get", "--raw", path_of(resource, namespace, name)])
        except ApiRefusal as refusal:
            if _is_absent(refusal):
                return None
            raise

    def list(self, resource: Resource, namespace: str | None = None, selector: str = "", fields: str = "") -> Objects:
        """The objects of a kind that match the selectors, in one namespace or (None) in all."""
        wanted = {"labelSelector": selector, "fieldSelector": fields}
        query = {key: text for key, text in wanted.items() if text}
        try:
            return self._pages(resource, namespace, {**query, "limit": str(PAGE)})
        except ApiRefusal as refusal:
            if refusal.status != 410:
                raise
        return self._pages(resource, namespace, query)  # 410 Gone: the list expired between two pages

    def _pages(self, resource: Resource, namespace: str | None, query: dict[str, str]) -> Objects:
        found: Objects = []
        action = KubectlAction("list", resource, namespace)
        while True:
            asked = "?" + urlencode(query) if query else ""
            answer = self._ask(action, ["get", "--raw", path_of(resource, namespace) + asked])
            # List items of built-in kinds lack their kind.
            kind = {"apiVersion": resource.api_version, "kind": resource.kind}
            found += [{**kind, **item} for item in answer.get("items") or ()]
            token = (answer.get("metadata") or {}).get("continue")
            if not token:
                return found
            query = {**query, "continue": token}

    def existing(self, objects: Sequence[Object]) -> Objects:
        """Those of these objects that exist, without managedFields, in one run of kubectl."""
        arguments = ["get", "--filename=-", "--ignore-not-found", "--output=json"]
        return self._ask_for_many(KubectlAction("get these objects"), arguments, objects)

    def server_version(self) -> str:
        """The API server's version, such as v1.37.2."""
        return str(self._ask(KubectlAction("read the version"), ["get", "--raw", "/version"]).get("gitVersion", ""))

    def can_i(
        self, verb: str, resource: Resource, namespace: str | None = None, name: str = "", subresource: str = ""
    ) -> bool:
        """True if the admin has this right."""
        asked = {"verb": verb, "group": resource.group, "resource": resource.plural, "subresource": subresource}
        asked |= {"namespace": namespace or "", "name": name}
        body = {"apiVersion": _REVIEWS.api_version, "kind": _REVIEWS.kind, "spec": {"resourceAttributes": asked}}
        answer = self._post(KubectlAction("create", _REVIEWS), path_of(_REVIEWS, None), body)
        return (answer.get("status") or {}).get("allowed") is True

    # Writing.

    def create(self, resource: Resource, namespace: str | None, body: Object) -> Object:
        """Create an object. Raises ApiRefusal with reason AlreadyExists if it exists."""
        name = str((body.get("metadata") or {}).get("name", ""))
        return self._post(KubectlAction("create", resource, namespace, name), path_of(resource, namespace), body)

    def apply(self, objects: Sequence[Object], *, dry_run: bool = False, force: bool = True) -> Objects:
        """Server-side apply; returns the objects as they are then. `dry_run`: check everything, store nothing.

        `force`: override fields of other owners. Otherwise these raise FieldConflicts.
        """
        arguments = ["apply", "--server-side", f"--field-manager={FIELD_MANAGER}", "--filename=-", "--output=json"]
        arguments += ["--force-conflicts"] if force else []
        arguments += ["--dry-run=server"] if dry_run else []
        return self._ask_for_many(KubectlAction("apply these objects"), arguments, objects)

    def patch(self, resource: Resource, namespace: str | None, name: str, body: Object) -> Object:
        """Merge into an object (RFC 7386): null removes a key, lists are replaced whole."""
        kind = f"{resource.plural}.{resource.version}.{resource.group}" if resource.group else resource.plural
        where = [] if namespace is None else [f"--namespace={namespace}"]
        arguments = ["patch", kind, name, *where, "--type=merge", "--patch-file=/dev/stdin", "--output=json"]
        return self._ask(KubectlAction("patch", resource, namespace, name), arguments, body)

    def delete(self, resource: Resource, namespace: str | None, name: str) -> bool:
        """Delete an object; False if it did not exist."""
        action = KubectlAction("delete", resource, namespace, name)
        try:
            self._ask(action, ["delete", "--raw", path_of(resource, namespace, name)])
        except ApiRefusal as refusal:
            if _is_absent(refusal):
                return False
            raise
        return True

    def create_token(self, namespace: str, account: str, seconds: int) -> str:
        """Create a ServiceAccount's token for the API server, which may shorten the lifetime (seconds)."""
        request = create_token(namespace, account, seconds)
        action = KubectlAction("create", SERVICE_ACCOUNTS, namespace, account, "token")
        token = (self._post(action, request.path, request.body or {}).get("status") or {}).get("token")
        if not is_token(token):
            raise _answer_error(f"answered without a token when asked to {action}")
        return str(token)

    # The kubeconfig: only the cluster's address and CA, for join tokens, and the namespace are read.

    def cluster(self) -> KubeconfigCluster:
        """How kubectl reaches the API server."""
        cluster = _first(self._config(), "clusters", "cluster")
        try:
            ca = base64.b64decode(cluster.get("certificate-authority-data") or "", validate=True)
        except (binascii.Error, ValueError):
            ca = b"damaged"
        server, name, proxy = (str(cluster.get(key) or "") for key in ("server", "tls-server-name", "proxy-url"))
        return KubeconfigCluster(server, name, proxy, ca, bool(cluster.get("insecure-skip-tls-verify")))

    def namespace(self) -> str:
        """The context's namespace, or `default` as in kubectl."""
        return str(_first(self._config(), "contexts", "context").get("namespace") or "default")

    def _config(self) -> Object:
        if self._kubeconfig is None:
            # --flatten includes the content of the files that the kubeconfig names.
            arguments = ["config", "view", "--minify", "--flatten", "--raw", "--output=json"]
            self._kubeconfig = self._ask(KubectlAction("read the kubeconfig"), arguments)
        return self._kubeconfig

    # Running kubectl.

    def _post(self, action: KubectlAction, path: str, body: Object) -> Object:
        return self._ask(action, ["create", "--raw", path, "--filename=-"], body)

    def _ask(self, action: KubectlAction, arguments: Sequence[str], body: Object | None = None) -> Object:
        return self._parse(action, self._run(action, arguments, body))

    def _parse(self, action: KubectlAction, output: str) -> Object:
        try:
            answer, _ = parse_json_cut(output.encode())  # with --raw, managedFields of any depth come with the objects
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise _answer_error(f"did not answer in JSON when asked to {action}")
        return answer

    def _ask_for_many(self, action: KubectlAction, arguments: Sequence[str], objects: Sequence[Object]) -> Objects:
        """Ask about these objects. kubectl answers with a List, with one object, or with nothing."""
        body = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        if not (output := self._run(action, arguments, body)).strip():
            return []
        answer = self._parse(action, output)
        return list(answer.get("items") or ()) if answer.get("kind") == "List" else [answer]

    def _run(self, action: KubectlAction, arguments: Sequence[str], body: Object | None = None) -> str:
        try:
            done = subprocess.run(
                [*self._command, *arguments],
                input=None if body is None else json.dumps(body),
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


def _answer_error(problem: str) -> ClusterError:
    hint = "check whether a proxy in front of the API server changes its answers"
    return ClusterError(Fault.UNREACHABLE, f"the API server {problem}", hint)


def _is_absent(refusal: ApiRefusal) -> bool:
    """True if the object is missing, not its kind."""
    return refusal.reason == "NotFound" and "no such kind" not in refusal.message


def _first(config: Object, key: str, inner: str) -> dict[str, Any]:
    """The only entry that --minify leaves."""
    entries = config.get(key) or [{}]
    found = entries[0].get(inner) if isinstance(entries[0], dict) else None
    return found if isinstance(found, dict) else {}
