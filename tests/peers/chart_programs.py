"""The real helm and kustomize: their versions, where they are built, and how tests run them."""

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from peers.kubernetes import RELEASES, cache
from support.needs import need

HELM = "v3.22.0"
KUSTOMIZE = "v5.8.1"
"""Their versions. `modules/` has the same ones; a test compares."""

TOP = Path(__file__).resolve().parents[2]
CHART = TOP / "packaging/helm/exclave"
BASE = TOP / "packaging/kustomize"

Objects = dict[tuple[str, str, str], dict[str, Any]]
"""Objects by kind, namespace ('' for none) and name."""


def helm_path() -> Path:
    """The program, which may not have been built."""
    return cache() / f"helm-{HELM}"


def kustomize_path() -> Path:
    """The program, which may not have been built."""
    return cache() / f"kustomize-{KUSTOMIZE}"


def link_flags() -> dict[Path, list[str]]:
    """The values that a release build of each program sets. helm renders for this release of Kubernetes by default."""
    minor = next(iter(RELEASES)).partition(".")[2]
    versions = [
        f"helm.sh/helm/v3/pkg/{package}.k8sVersion{part}={number}"
        for package in ("chartutil", "lint/rules")
        for part, number in (("Major", "1"), ("Minor", minor))
    ]
    return {
        helm_path(): [*versions, f"helm.sh/helm/v3/internal/version.version={HELM}"],
        kustomize_path(): [f"sigs.k8s.io/kustomize/api/provenance.version={KUSTOMIZE}"],
    }


def run_helm(*words: object, kubeconfig: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run helm; it reads no settings of this user. What it caches of a server goes beside the kubeconfig."""
    need(helm_path().is_file(), f"helm has not been built: {helm_path()}")
    settings = {"HELM_CONFIG_HOME": "/nonexistent", "HELM_CACHE_HOME": "/nonexistent", "HELM_DATA_HOME": "/nonexistent"}
    home, config = (str(kubeconfig.parent), str(kubeconfig)) if kubeconfig else ("/nonexistent", "/nonexistent")
    environment = {"PATH": os.environ["PATH"], **settings, "HOME": home, "KUBECONFIG": config}
    return subprocess.run([helm_path(), *map(str, words)], env=environment, capture_output=True, text=True)


def render(*words: object, namespace: str = "exclave") -> Objects:
    """What `helm template` makes of the chart."""
    done = run_helm("template", "exclave", CHART, "--namespace", namespace, *words)
    assert done.returncode == 0, done.stderr
    return by_key(done.stdout)


def refusal(*words: object) -> str:
    """Why `helm template` refuses values."""
    done = run_helm("template", "exclave", CHART, "--namespace", "exclave", *words)
    assert done.returncode != 0, done.stdout
    return done.stderr


def kustomize_build(folder: Path) -> Objects:
    """What `kustomize build` makes of a folder."""
    need(kustomize_path().is_file(), f"kustomize has not been built: {kustomize_path()}")
    done = subprocess.run([kustomize_path(), "build", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return by_key(done.stdout)


def by_key(text: str) -> Objects:
    """The objects of a YAML text, each once."""
    bodies = [one for one in yaml.safe_load_all(text) if one is not None]
    found = {(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one for one in bodies}
    assert len(found) == len(bodies), "an object is there twice"
    return found
