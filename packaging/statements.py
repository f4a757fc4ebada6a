"""What a release states about itself: its parts (SPDX) and how it was built (SLSA). Pure.

Sources: spdx.github.io/spdx-spec/v2.3, its JSON schema; slsa.dev/spec/v1.0/provenance;
github.com/in-toto/attestation, spec/v1/statement.md; PURL-TYPES.rst of package-url/purl-spec.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from exclave.kit.formats.times import rfc3339
from lock import Locked

HOME = "https://exclave.dev"


@dataclass(frozen=True)
class Artefact:
    """One file of a release. `purl`: its name as a package, or ""; `contains`: the libraries that are in it."""

    name: str
    digest: str
    """SHA-256, in hex."""
    purl: str = ""
    contains: tuple[Locked, ...] = ()


@dataclass(frozen=True)
class Source:
    """What was built: a version, its commit in hex, and the date of the changelog's entry in epoch seconds."""

    version: str
    commit: str
    date: int

    @property
    def when(self) -> str:
        """The date in the form of RFC 3339."""
        return rfc3339(self.date)


def library_purl(library: Locked) -> str:
    """The name of a library on Python's index."""
    return f"pkg:pypi/{library.name}@{library.version}"


def bill_of_materials(source: Source, artefacts: Iterable[Artefact]) -> dict[str, Any]:
    """An SPDX 2.3 document: each file, and the libraries that are in it."""
    files = list(artefacts)
    libraries = {library_purl(one): one for file in files for one in file.contains}
    packages = [
        _package(
            file.name.rpartition("/")[2],
            source.version,
            file.purl,
            packageFileName=file.name,
            supplier="Organization: The exclave maintainers",
            checksums=[{"algorithm": "SHA256", "checksumValue": file.digest}],
            licenseDeclared="Apache-2.0",
        )
        for file in files
    ]
    packages += [_package(one.name, one.version, purl) for purl, one in sorted(libraries.items())]
    described = [("SPDXRef-DOCUMENT", "DESCRIBES", _reference(file.name)) for file in files]
    contained = [
        (_reference(file.name), "CONTAINS", _reference(library_purl(one))) for file in files for one in file.contains
    ]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"exclave-{source.version}",
        "documentNamespace": f"{HOME}/spdx/exclave-{source.version}-{source.commit}",
        "creationInfo": {
            "created": source.when,
            "creators": ["Organization: The exclave maintainers", f"Tool: exclave-packaging-release-{source.version}"],
        },
        "packages": packages,
        "relationships": [
            {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
            for one, kind, other in [*described, *contained]
        ],
    }


def _reference(name: str) -> str:
    return f"SPDXRef-{re.sub('[^A-Za-z0-9.-]', '-', name)}"


def _package(name: str, version: str, purl: str, **more: Any) -> dict[str, Any]:
    reference = {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}
    return {
        "SPDXID": _reference(more.get("packageFileName", purl)),
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        **({"externalRefs": [reference]} if purl else {}),
        **more,
    }


def provenance(
    source: Source,
    artefacts: Iterable[Artefact],
    before_signing: Iterable[Artefact],
    inputs: Iterable[Locked],
    tools: Mapping[str, str],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """An in-toto statement with SLSA provenance v1.

    `before_signing`: rpms as they were built, which another build can be compared with; `inputs`: what was fetched.
    """
    fetched = [{"uri": library_purl(one), "digest": {"sha256": digest}} for one in inputs for digest in one.hashes]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": one.name, "digest": {"sha256": one.digest}} for one in artefacts],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": f"{HOME}/release/v1",
                "externalParameters": {"version": source.version, **options},
                "resolvedDependencies": [
                    {"uri": f"git+{HOME}@refs/tags/v{source.version}", "digest": {"gitCommit": source.commit}},
                    *fetched,
                ],
            },
            "runDetails": {
                "builder": {"id": f"{HOME}/packaging/release", "version": dict(sorted(tools.items()))},
                "byproducts": [{"name": one.name, "digest": {"sha256": one.digest}} for one in before_signing],
            },
        },
    }
