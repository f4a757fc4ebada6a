"""The libraries in the controller's container image, held by their hashes, and their bill of materials.

`python packaging/lock.py renew` writes packaging/container/*.txt with the newest versions.
`python packaging/lock.py sbom` prints the bill of materials of the image: CycloneDX 1.5, JSON.
The files and packages of the base image are not in it: a scanner of images reads those from the image.
"""

import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vendor import MACHINES, download

CONTAINER = Path(__file__).resolve().parent / "container"
TOP = CONTAINER.parents[1]

PYTHONS = ("3.13", "3.12", "3.11")
"""The first is the image's. Tests install the same versions on the others."""

BUILD = ("hatchling",)

HEADS = {
    "requirements": "# The libraries of the controller's image, with the SHA-256 of their wheels. "
    "Renewed by packaging/lock.py.",
    "build": "# What builds exclave's own wheel in the image's first stage. Renewed by packaging/lock.py.",
}


@dataclass(frozen=True)
class Locked:
    """One library of a lock file, and the SHA-256 of each of its wheels, in hex."""

    name: str
    version: str
    hashes: tuple[str, ...]


def normalized(name: str) -> str:
    """A project's name as indexes compare it. Source: PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(name: str, folder: Path = CONTAINER) -> list[Locked]:
    """The libraries of NAME.txt: those of the image (requirements, build), or of a package in packaging/vendor."""
    text = (folder / f"{name}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            requirement, *hashes = line.split()
            project, _, version = requirement.partition("==")
            found.append(Locked(project, version, tuple(one.removeprefix("--hash=sha256:") for one in hashes)))
    return found


def direct_requirements() -> list[str]:
    """What the controller needs by pyproject.toml, as it is written there."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["controller"]]


def renew(name: str, wanted: Iterable[str]) -> None:
    """Write the newest versions that fit the image, with the hashes of their wheels for each machine and Python."""
    found: dict[tuple[str, str], set[str]] = {}
    pinned = list(wanted)
    for python in PYTHONS:
        for arch in MACHINES:
            with tempfile.TemporaryDirectory(prefix="exclave-wheels.") as temporary:
                folder = Path(temporary) / "wheels"
                for wheel in download(arch, folder, *pinned, cache=Path(temporary) / "cache", python=python):
                    project, version = wheel.name.split("-")[:2]
                    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
                    found.setdefault((normalized(project), version), set()).add(digest)
            pinned = [f"{project}=={version}" for project, version in found]
    lines = [HEADS[name]]
    for (project, version), digests in sorted(found.items()):
        lines.append(" \\\n    ".join([f"{project}=={version}", *(f"--hash=sha256:{one}" for one in sorted(digests))]))
    (CONTAINER / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def bill_of_materials(libraries: Iterable[Locked], version: str) -> dict[str, Any]:
    """CycloneDX 1.5. It has no time and no serial number, so the same lock gives the same bytes.

    Source: cyclonedx.org/docs/1.5/json; names of packages: PURL-TYPES.rst, type pypi, of package-url/purl-spec.
    """
    own = f"pkg:pypi/exclave@{version}"
    components = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{one.name}@{one.version}",
            "name": one.name,
            "version": one.version,
            "purl": f"pkg:pypi/{one.name}@{one.version}",
            "hashes": [{"alg": "SHA-256", "content": digest} for digest in one.hashes],
        }
        for one in libraries
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": own,
                "name": "exclave",
                "version": version,
                "purl": own,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": components,
        "dependencies": [{"ref": own, "dependsOn": [one["bom-ref"] for one in components]}],
    }


def own_version() -> str:
    """exclave's version, read without importing it."""
    text = (TOP / "agent/exclave/__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    assert found is not None
    return found[1]


if __name__ == "__main__":
    if sys.argv[1:] == ["renew"]:
        renew("requirements", direct_requirements())
        renew("build", BUILD)
    elif sys.argv[1:] == ["sbom"]:
        print(json.dumps(bill_of_materials(read_lock("requirements"), own_version()), indent=2))
    else:
        sys.exit("usage: python packaging/lock.py renew|sbom")
