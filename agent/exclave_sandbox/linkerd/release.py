"""A release of the real Linkerd: its programs, and how its own manifests run them.

Nothing here runs pods. Arguments and environment of the programs are read from what `linkerd install` writes, and what
a kubelet would add is added. Only `find_linkerd` reads the disk.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exclave.api.requests import Object
from exclave.errors import ExclaveError, Fault

PROGRAMS = ("linkerd", "linkerd-controller", "linkerd-policy-controller", "linkerd2-proxy")


@dataclass(frozen=True)
class LinkerdBinaries:
    """The folder with the programs of a release, named as in PROGRAMS."""

    folder: Path

    @property
    def cli(self) -> str:
        """The program `linkerd`."""
        return str(self.folder / "linkerd")

    @property
    def controller(self) -> str:
        """Identity and destination controller."""
        return str(self.folder / "linkerd-controller")

    @property
    def policy_controller(self) -> str:
        """The policy controller."""
        return str(self.folder / "linkerd-policy-controller")

    @property
    def proxy(self) -> Path:
        """The proxy."""
        return self.folder / "linkerd2-proxy"


def find_linkerd(folder: Path) -> LinkerdBinaries:
    """The programs in a folder. Raises ExclaveError that names those that are missing."""
    missing = [name for name in PROGRAMS if not (folder / name).is_file()]
    if missing:
        raise ExclaveError(
            Fault.USAGE,
            f"{folder} does not have all programs of a Linkerd release: {', '.join(missing)} missing",
            f"put {', '.join(PROGRAMS)} of one release into one folder, and name it",
        )
    return LinkerdBinaries(folder)


def installable(manifests: Iterable[Object]) -> list[Object]:
    """The manifests without webhooks: the API server would wait for them, and nothing here serves them."""
    return [each for each in manifests if not each["kind"].endswith("WebhookConfiguration")]


def container(manifests: Iterable[Object], deployment: str, name: str) -> Object:
    """A container of a Deployment, also of its init containers: recent releases start the proxy as one."""
    for each in manifests:
        if each["kind"] == "Deployment" and each["metadata"]["name"] == deployment:
            spec = each["spec"]["template"]["spec"]
            for found in (*spec["containers"], *spec.get("initContainers", ())):
                if found["name"] == name:
                    return dict(found)
    text = f"this release of Linkerd has no container {name} in {deployment}"
    raise ExclaveError(Fault.USAGE, text, "use Linkerd 2.16 or newer")


def environment(found: Object, pod: Object, replaced: Mapping[str, str]) -> dict[str, str]:
    """The environment that a kubelet makes for a container of `pod`, with some values replaced.

    Without references to ConfigMaps: `replaced` must have those.
    """
    values: dict[str, str] = {}
    for entry in found.get("env", ()):
        value = _value(entry, pod)
        if value is not None:
            values[entry["name"]] = _REFERENCE.sub(lambda match: values.get(match[1], match[0]), value)
    return {**values, **replaced}


_REFERENCE = re.compile(r"\$\((\w+)\)")


def _value(entry: Mapping[str, Any], pod: Object) -> str | None:
    path = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
    if path is None:
        return entry.get("value")
    if path == "status.podIPs":
        return ",".join(each["ip"] for each in pod["status"]["podIPs"])
    tree: Any = pod
    for name in path.split("."):
        tree = tree.get(name, {})
    return str(tree or "")
