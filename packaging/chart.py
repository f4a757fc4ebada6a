"""Makes the Helm chart and the kustomize base from the objects that `kubectl exclave install` applies.

The YAML files of the command stay as they are, with their comments: only placeholders and the places in `EDITS` are
replaced. Files without a source there (values, NOTES.txt, optional objects) are written by hand. A test compares.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

PACKAGING = Path(__file__).resolve().parent
SOURCE = PACKAGING.parent / "agent"
sys.path[:0] = [str(PACKAGING), str(SOURCE)]

import exclave  # noqa: E402
from exclave.admin.objects import IMAGE, METRICS_PORT, NOBODY, Installation, later_objects  # noqa: E402
from exclave.api.definitions.manifests import ADMISSION_VALUES, definition_values  # noqa: E402

COMMAND = ".venv/bin/python packaging/chart.py"

SOURCES = {
    "crds": "agent/exclave/api/definitions/crds.yaml",
    "admission": "agent/exclave/api/definitions/admission.yaml",
    "rights": "agent/exclave/admin/templates/rights.yaml",
    "controller": "agent/exclave/admin/templates/controller.yaml",
    "certificate": "agent/exclave/admin/templates/certificate.yaml",
}

CONSTANTS = {
    name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    for name, value in {**definition_values(), **ADMISSION_VALUES, "METRICS_PORT": METRICS_PORT, "USER": NOBODY}.items()
}
"""Placeholders that have the same value in every installation, as YAML: JSON is part of it."""

HELM_VALUES = CONSTANTS | {
    "NAMESPACE": "{{ .Release.Namespace }}",
    "CONTROLLER_NAMESPACE": "{{ .Release.Namespace }}",
    "LINKERD": "{{ .Values.linkerdNamespace }}",
    "ISSUER_NAMESPACE": "{{ $issuerNamespace }}",
    "ISSUER_SECRET": "{{ $issuerSecret }}",
    "ISSUER_KIND": "{{ .Values.issuer.certManager.kind }}",
    "ISSUER_NAME": "{{ .Values.issuer.certManager.name }}",
    "REPLICAS": "{{ .Values.replicas }}",
}

STRINGS = {"NAMESPACE", "LINKERD", "ISSUER_NAMESPACE", "ISSUER_SECRET", "ISSUER_KIND", "ISSUER_NAME"}
"""A name such as 123 is a string, too: these are quoted where they are a whole value."""

BASE_VALUES = CONSTANTS | {
    "NAMESPACE": Installation.namespace,
    "CONTROLLER_NAMESPACE": Installation.namespace,
    "LINKERD": Installation.linkerd,
    "ISSUER_NAMESPACE": Installation().issuer_namespace,
    "ISSUER_SECRET": Installation().issuer_secret,
    "ISSUER_KIND": "ClusterIssuer",
    "ISSUER_NAME": "linkerd-trust-anchor",
    "REPLICAS": str(Installation.replicas),
    "IMAGE": IMAGE,
}

ISSUER_VARIABLES = """\
{{- $useLinkerdIssuer := eq .Values.issuer.source "linkerd" }}
{{- $issuerNamespace := ternary .Values.linkerdNamespace .Release.Namespace $useLinkerdIssuer }}
{{- $issuerSecret := ternary "linkerd-identity-issuer" "exclave-issuer" $useLinkerdIssuer }}
"""


OPTIONAL = """\
      {{- with .Values.KEY }}
      KEY: {{- toYaml . | nindent 8 }}
      {{- end }}
"""

SCHEDULING = """\
      {{- with .Values.priorityClassName }}
      priorityClassName: {{ . | quote }}
      {{- end }}
""" + "".join(
    OPTIONAL.replace("KEY", key)
    for key in ("imagePullSecrets", "nodeSelector", "tolerations", "topologySpreadConstraints")
)
"""Fields of the pod that are absent unless their value is set."""

POD_METADATA = """\
      labels: {app.kubernetes.io/name: exclave-controller}
      annotations: {linkerd.io/inject: disabled}
"""

POD_METADATA_WITH_VALUES = """\
      labels:
        app.kubernetes.io/name: exclave-controller
        {{- with .Values.podLabels }}{{ toYaml . | nindent 8 }}{{- end }}
      annotations:
        linkerd.io/inject: disabled
        {{- with .Values.podAnnotations }}{{ toYaml . | nindent 8 }}{{- end }}
"""

IMAGE_LINES = """\
          image: "{{ .Values.image.name }}:{{ .Values.image.version | default .Chart.AppVersion }}"
          {{- with .Values.image.pullPolicy }}
          imagePullPolicy: {{ . | quote }}
          {{- end }}
"""

ACCOUNT = "      serviceAccountName: exclave-controller\n"

AFFINITY = "      affinity:\n"
AFTER_AFFINITY = "      securityContext:\n        runAsNonRoot: true\n"
OTHER_AFFINITY = """\
        {{- with .Values.affinity }}
        {{- toYaml . | nindent 8 }}
        {{- else }}
"""

EDITS = {
    POD_METADATA: POD_METADATA_WITH_VALUES,
    ACCOUNT: ACCOUNT + SCHEDULING,
    AFFINITY: AFFINITY + OTHER_AFFINITY,
    AFTER_AFFINITY: "        {{- end }}\n" + AFTER_AFFINITY,
    "          image: <IMAGE>\n": IMAGE_LINES,
}
"""Lines of the Deployment, and what the chart has in their place."""

_PLACEHOLDER = re.compile("<([A-Z_]+)>")
_RESOURCES = re.compile(r"^ {10}resources: \{.*\}\n", re.MULTILINE)
_NAME = re.compile(r"^metadata: \{name: ([a-z.-]+)\}\n", re.MULTILINE)


class CannotMake(Exception):
    """A source no longer has the text that this program replaces."""


def made_files() -> dict[str, str]:
    """All files made from sources, by their paths below packaging/. Raises CannotMake."""
    chart = {f"helm/exclave/{name}": text for name, text in chart_files().items()}
    return chart | {f"kustomize/{name}": text for name, text in base_files().items()}


def chart_files() -> dict[str, str]:
    """The files of the chart that have a source."""
    namespace, rights = _split_namespace(_helm("rights"))
    certificate = _helm("certificate")
    contents = {
        "crds": _with_keep(_helm("crds")),
        "admission": _with_keep(_helm("admission")),
        "namespace": _if(".Values.createNamespace", namespace),
        "rights": ISSUER_VARIABLES + rights,
        "certificate": _if('eq .Values.issuer.source "cert-manager"', certificate),
        "controller": _helm("controller", _edit_deployment),
    }
    sources = SOURCES | {"namespace": SOURCES["rights"]}
    made = {
        f"templates/{name}.yaml": f"{{{{- /* {_notice(sources[name])} */ -}}}}\n{text}"
        for name, text in contents.items()
    }
    return {"Chart.yaml": _chart_yaml(), **made}


def base_files() -> dict[str, str]:
    """The files of the kustomize base, and of the component that has a source."""
    arguments = "".join(f"\n            - {one}" for one in _arguments(Installation()))
    values = BASE_VALUES | {"ARGUMENTS": arguments}
    made = {}
    for name, source in SOURCES.items():
        folder = "components/cert-manager" if name == "certificate" else "base"
        made[f"{folder}/{name}.yaml"] = f"# {_notice(source)}\n{_fill(_read(name), values)}"
    return made


def _notice(source: str) -> str:
    return f"Made by packaging/chart.py from {source}: change that file."


def _read(name: str) -> str:
    """The text of a source without the comment lines about its placeholders."""
    lines = (PACKAGING.parent / SOURCES[name]).read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not (line.lstrip().startswith("#") and _PLACEHOLDER.search(line)))


def _helm(name: str, edit: Callable[[str], str] = str) -> str:
    text = _read(name)
    if "{{" in text:
        raise CannotMake(f"{SOURCES[name]}: '{{{{' would begin an expression of Helm: write a space between the braces")
    return _fill(edit(text), HELM_VALUES)


def _fill(text: str, values: Mapping[str, str]) -> str:
    """Replace all placeholders. Raises CannotMake."""

    def value(found: "re.Match[str]") -> str:
        name = found[1]
        if name not in values:
            raise CannotMake(f"the placeholder <{name}> has no value in packaging/chart.py")
        result = values[name]
        before, after = text[: found.start()], text[found.end() :]
        is_whole = before.endswith((": ", "- ", "[")) and after.startswith((",", "}", "]", "\n"))
        if is_whole and name in STRINGS:
            result = result.replace(" }}", " | quote }}")
        return f"{result} " if result.endswith("}}") and after.startswith("}") else result

    filled = _PLACEHOLDER.sub(value, text)
    return re.sub(r" +$", "", filled, flags=re.MULTILINE)


def _edit_deployment(text: str) -> str:
    """Make the fields of the pod depend on values. Raises CannotMake."""
    for old, new in EDITS.items():
        text = _replace_once(text, old, new)
    text = _replace_once(text, " <ARGUMENTS>\n", f"\n{_argument_lines()}")
    text, count = _RESOURCES.subn("          resources: {{- toYaml .Values.resources | nindent 12 }}\n", text)
    if count != 1:
        raise CannotMake(f"{SOURCES['controller']}: one line with the resources was expected, found {count}")
    return text


def _argument_lines() -> str:
    """The controller's arguments. Those that only Linkerd's issuer needs depend on the value."""
    base = Installation(HELM_VALUES["NAMESPACE"], HELM_VALUES["LINKERD"])
    own, all_of_them = _arguments(base), _arguments(replace(base, issuer="linkerd"))
    lines = []
    for one in all_of_them:
        line = f"            - {one}\n"
        if one not in own:
            line = f'            {{{{- if eq .Values.issuer.source "linkerd" }}}}\n{line}            {{{{- end }}}}\n'
        lines.append(line)
    if [one for one in all_of_them if one in own] != own:
        raise CannotMake("the controller has arguments that Linkerd's issuer excludes")
    return "".join(lines)


def _arguments(choice: Installation) -> list[str]:
    (deployment,) = (one.body for one in later_objects(choice) if one.resource.kind == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return [str(one) for one in container["args"]]


def _replace_once(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise CannotMake(f"{SOURCES['controller']}: this was expected once, found {text.count(old)} times:\n{old}")
    return text.replace(old, new)


def _with_keep(text: str) -> str:
    """Have Helm leave these objects in the cluster when the release is uninstalled."""
    keep = r"metadata:\n  name: \1\n  annotations: {helm.sh/resource-policy: keep}\n"
    changed, count = _NAME.subn(keep, text)
    objects = text.count("\nkind: ")
    if count != objects:
        raise CannotMake(f"a line 'metadata: {{name: NAME}}' was expected in every object, found {count} of {objects}")
    return changed


def _split_namespace(text: str) -> tuple[str, str]:
    """The Namespace, and all other documents."""
    documents = text.split("---\n")
    namespaces = [one for one in documents if "\nkind: Namespace\n" in one]
    if namespaces != documents[:1]:
        raise CannotMake(f"{SOURCES['rights']}: the Namespace is not its first object")
    comment, _, namespace = documents[0].partition("apiVersion:")
    return f"apiVersion:{namespace}", comment + "---\n".join(documents[1:])


def _if(condition: str, text: str) -> str:
    return f"{{{{- if {condition} }}}}\n{text}{{{{- end }}}}\n"


def _chart_yaml() -> str:
    return f"""\
# Made by packaging/chart.py.
apiVersion: v2
name: exclave
description: Makes virtual machines members of a Linkerd mesh
type: application
version: {exclave.__version__}
appVersion: {exclave.__version__}
kubeVersion: ">=1.30.0-0" # the first release that serves ValidatingAdmissionPolicy v1
home: https://exclave.dev
keywords: [linkerd, service-mesh, virtual-machines]
"""


def differences(folder: Path) -> Iterator[str]:
    """The paths of files in `folder` that are not as they would be made now."""
    for name, text in made_files().items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            yield name


def main() -> int:
    """Write all files that have a source."""
    try:
        changed = list(differences(PACKAGING))
    except CannotMake as problem:
        print(f"packaging/chart.py: {problem}", file=sys.stderr)
        return 1
    for name in changed:
        path = PACKAGING / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made_files()[name], encoding="utf-8")
        print(f"packaging/{name} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
