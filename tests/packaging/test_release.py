"""A dry run of a release: everything but the image is built, signed with a key of this test, and verified by others.

gpg, apt and rpm verify with the public key alone. Others' programs read the bill of materials and the provenance.
tests/vm/test_release.py installs from the repositories.
"""

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from architecture.tree import TOP
from exclave import __version__
from support.needs import need
from support.packages import nfpm_program
from support.release import (
    NO_LIBRARIES,
    RELEASE_TOOLS,
    git,
    make_checkout,
    make_key,
    open_keyring,
    release,
    sign_sums,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FEDORA = [f"{name}-{__version__}-1.noarch.rpm" for name in ("exclave", "exclave-admin")]
EL = [
    f"{name}-{__version__}-1.el.{arch}.rpm" for name in ("exclave", "exclave-admin") for arch in ("x86_64", "aarch64")
]
DEBS = [f"{name}_{__version__}-1_all.deb" for name in ("exclave", "exclave-admin")]

ARTEFACTS = {
    *(f"apt/pool/{name}" for name in DEBS),
    *(f"rpm/fedora/{name}" for name in FEDORA),
    *(f"rpm/el/{name}" for name in EL),
    f"python/exclave-{__version__}.tar.gz",
    f"python/exclave-{__version__}-py3-none-any.whl",
    f"helm/exclave-{__version__}.tgz",
    f"kustomize/exclave-kustomize-{__version__}.tar.gz",
}

PASSPHRASE = "not-for-logs"

PINENTRY = f"""\
#!/bin/sh
echo OK
while read -r word _; do
    [ "$word" != GETPIN ] || echo D {PASSPHRASE}
    echo OK
    [ "$word" != BYE ] || exit 0
done
"""
"""A person who enters the passphrase, as gpg's agent asks for it."""

VALIDATORS = ("spdx-tools==0.8.3", "in-toto-attestation==0.9.3")

READ_PROVENANCE = """
import json, sys
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as Message
found = json.load(sys.stdin)
Statement.copy_from_pb(ParseDict(found, Message())).validate()
ParseDict(found["predicate"], Provenance())
"""
"""Fails if a field is missing, or one that the formats do not have is there."""


@dataclass(frozen=True)
class Made:
    """A checkout, a GnuPG home with a key, and the release that they gave."""

    checkout: Path
    home: Path
    key: str
    folder: Path
    output: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    for program, package in RELEASE_TOOLS.items():
        need(shutil.which(program) is not None, f"a release needs {program} ({package})")
    work = tmp_path_factory.mktemp("release")
    checkout = make_checkout(work / "checkout")
    with tempfile.TemporaryDirectory(prefix="gpg") as short, open_keyring(Path(short) / "home") as home:
        key = make_key(home, "a release", passphrase=PASSPHRASE)
        (home / "pinentry").write_text(PINENTRY)
        (home / "pinentry").chmod(0o755)
        (home / "gpg-agent.conf").write_text(f"pinentry-program {home}/pinentry\n")
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)  # forgets the passphrase
        yield Made(checkout, home, key, *run(checkout, home, key, work / "out/one"))


def run(checkout: Path, home: Path, key: str, folder: Path, *words: str | Path, **environment: str) -> tuple[Path, str]:
    done = release(checkout, home, __version__, folder, "--key", key, "--without-image", *words, **environment)
    if done.returncode == NO_LIBRARIES:
        pytest.skip(f"no release can be built here: {done.stderr.strip()[-300:]}")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return folder, done.stdout


@pytest.fixture
def public(made: Made) -> Iterator[Path]:
    """A GnuPG home with the public key alone."""
    with tempfile.TemporaryDirectory(prefix="gpg") as short, open_keyring(Path(short) / "home") as home:
        subprocess.run(["gpg", "--homedir", home, "--quiet", "--import", made.folder / "exclave.asc"], check=True)
        yield home


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_what_a_release_has(made: Made) -> None:
    found = {re.sub("[0-9a-f]{64}", "DIGEST", name) for name in files(made.folder)}
    suite = "apt/dists/stable"
    assert found - ARTEFACTS == {
        "exclave.asc", "sbom.spdx.json", "provenance.json", "SHA256SUMS", "SHA256SUMS.asc",
        *(f"{suite}/{name}" for name in ("InRelease", "Release", "Release.gpg")),
        *(f"{suite}/main/binary-{arch}/Packages{end}" for arch in ("amd64", "arm64") for end in ("", ".gz")),
        *(f"rpm/{one}/repodata/DIGEST-{kind}.xml.gz"
          for one in ("fedora", "el") for kind in ("primary", "filelists", "other")),
        *(f"rpm/{one}/repodata/repomd.xml{end}" for one in ("fedora", "el") for end in ("", ".asc")),
    }  # fmt: skip
    assert found >= ARTEFACTS
    assert {path.stat().st_mode & 0o777 for path in made.folder.rglob("*")} == {0o755, 0o644}
    assert list(made.folder.parent.iterdir()) == [made.folder]


def test_it_states_what_it_does(made: Made) -> None:
    lines = made.output.splitlines()
    commit = git(made.checkout, "rev-parse", "HEAD").strip()
    assert lines[0] == f"exclave {__version__}, commit {commit}, signed by {made.key}"
    assert lines[-2:] == [f"the release is in {made.folder}", "left out: the controller's image (--without-image)"]


def test_the_passphrase_is_nowhere(made: Made) -> None:
    assert PASSPHRASE not in made.output
    found = subprocess.run(["grep", "-rlF", PASSPHRASE, made.folder, made.checkout], capture_output=True, text=True)
    assert found.stdout == f"{made.checkout}/tests/packaging/test_release.py\n"


def test_the_checksums_are_signed_and_right(made: Made, public: Path) -> None:
    sums = made.folder / "SHA256SUMS"
    command = ["gpg", "--homedir", public, "--quiet", "--verify", f"{sums}.asc"]
    subprocess.run([*command, sums], check=True, capture_output=True)
    checked = subprocess.run(["sha256sum", "--check", "--quiet", "--strict", sums.name], cwd=sums.parent)
    assert checked.returncode == 0
    listed = {line.split()[1] for line in sums.read_text().splitlines()}
    assert listed == files(made.folder) - {"SHA256SUMS", "SHA256SUMS.asc"}
    changed = subprocess.run([*command, "-"], input=sums.read_bytes() + b"x", capture_output=True)
    assert changed.returncode == 1


def test_rpm_verifies_each_package_and_no_changed_one(made: Made, tmp_path: Path) -> None:
    check = ["rpmkeys", "--dbpath", tmp_path, "--define", "_pkgverify_level all"]
    rpms = [made.folder / name for name in ARTEFACTS if name.endswith(".rpm")]
    before = subprocess.run([*check, "--checksig", *rpms], capture_output=True, text=True)
    assert before.stdout.count("SIGNATURES NOT OK") == len(rpms)  # without the key
    subprocess.run([*check, "--import", made.folder / "exclave.asc"], check=True)
    after = subprocess.run([*check, "--checksig", *rpms], capture_output=True, text=True)
    assert after.stdout.count("digests signatures OK") == len(rpms), after.stdout
    changed = tmp_path / "changed.rpm"
    changed.write_bytes(rpms[0].read_bytes()[:-1] + b"x")
    assert "NOT OK" in subprocess.run([*check, "--checksig", changed], capture_output=True, text=True).stdout


def test_apt_reads_the_repository_with_this_key_and_with_no_other(made: Made, tmp_path: Path) -> None:
    source, key = tmp_path / "exclave.sources", tmp_path / "exclave.asc"
    (tmp_path / "state/lists/partial").mkdir(parents=True)
    source.write_text(f"Types: deb\nURIs: file:{made.folder}/apt\nSuites: stable\nComponents: main\nSigned-By: {key}\n")
    settings = {"Dir::Etc::sourceparts": "/dev/null", "Dir::State": tmp_path / "state", "Dir::Cache": tmp_path}
    settings |= {"Dir::Etc::sourcelist": source, "APT::Sandbox::User": "root"}
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]

    key.write_text(other_key())
    refused = subprocess.run(["apt-get", *options, "update"], capture_output=True, text=True)
    assert refused.returncode == 100
    assert "is not signed" in refused.stderr
    shutil.copyfile(made.folder / "exclave.asc", key)
    subprocess.run(["apt-get", *options, "update"], check=True, capture_output=True)
    shown = subprocess.run(["apt-cache", *options, "policy", "exclave"], check=True, capture_output=True, text=True)
    assert f"Candidate: {__version__}-1\n" in shown.stdout


def other_key() -> str:
    with tempfile.TemporaryDirectory(prefix="gpg") as short, open_keyring(Path(short) / "home") as home:
        make_key(home, "another")
        command = ["gpg", "--homedir", home, "--armor", "--export"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_python_distribution_and_the_archives_are_whole(made: Made, tmp_path: Path) -> None:
    with zipfile.ZipFile(made.folder / f"python/exclave-{__version__}-py3-none-any.whl") as wheel:
        assert "exclave/daemon/boot.py" in wheel.namelist()
        assert not [name for name in wheel.namelist() if name.startswith("exclave_sandbox")]
    for archive, name, source in (
        (f"helm/exclave-{__version__}.tgz", "exclave", "helm/exclave"),
        (f"kustomize/exclave-kustomize-{__version__}.tar.gz", f"exclave-kustomize-{__version__}", "kustomize"),
    ):
        with tarfile.open(made.folder / archive) as packed:
            assert {(one.uname, one.gname, one.uid) for one in packed.getmembers()} == {("", "", 0)}
            assert {one.mode & 0o777 for one in packed.getmembers()} == {0o755, 0o644}
        subprocess.run(["tar", "-xzf", made.folder / archive], cwd=tmp_path, check=True)
        compared = subprocess.run(["diff", "-r", tmp_path / name, made.checkout / "packaging" / source])
        assert compared.returncode == 0


@pytest.fixture(scope="module")
def validators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python that has the validators."""
    folder = tmp_path_factory.mktemp("validators")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", folder]
    installed = subprocess.run([*pip, *VALIDATORS], capture_output=True, text=True)
    need(installed.returncode == 0, f"{' '.join(VALIDATORS)} cannot be installed: {installed.stderr[-300:]}")
    return os.environ | {"PYTHONPATH": str(folder)}


def test_the_bill_of_materials_is_valid_and_names_each_library(
    made: Made, validators: dict[str, str], tmp_path: Path
) -> None:
    bill = made.folder / "sbom.spdx.json"
    check = [sys.executable, "-m", "spdx_tools.spdx.clitools.pyspdxtools", "--version", "SPDX-2.3", "--infile"]
    done = subprocess.run([*check, bill], env=validators, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / "wrong.spdx.json"
    wrong.write_text(bill.read_text().replace('"SHA256"', '"SHA255"'))
    assert subprocess.run([*check, wrong], env=validators, capture_output=True).returncode != 0

    document = json.loads(bill.read_text())
    packages = {one["SPDXID"]: one for one in document["packages"]}
    digests = {one["packageFileName"]: one["checksums"] for one in packages.values() if "packageFileName" in one}
    assert digests == {
        name: [{"algorithm": "SHA256", "checksumValue": digest(made.folder / name)}] for name in ARTEFACTS
    }
    contained: dict[str, set[str]] = {}
    for one in document["relationships"]:
        if one["relationshipType"] == "CONTAINS":
            library = packages[one["relatedSpdxElement"]]
            name = packages[one["spdxElementId"]]["name"]
            contained.setdefault(name, set()).add(f"{library['name']}=={library['versionInfo']}")
    assert contained == {name: vendored(name, made.checkout) for name in EL}


def vendored(rpm: str, checkout: Path) -> set[str]:
    name = rpm.partition(f"-{__version__}")[0]
    text = (checkout / f"packaging/vendor/{name}.txt").read_text()
    return set(re.findall(r"^[a-z]\S*==\S+", text, re.MULTILINE))


def statement(folder: Path) -> Any:
    return json.loads((folder / "provenance.json").read_text())


def test_the_provenance_has_the_form_of_in_toto_and_slsa(made: Made, validators: dict[str, str]) -> None:
    text = (made.folder / "provenance.json").read_text()
    read = [sys.executable, "-c", READ_PROVENANCE]
    done = subprocess.run(read, env=validators, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wrong = text.replace('"byproducts"', '"products"')
    assert subprocess.run(read, env=validators, input=wrong, capture_output=True, text=True).returncode != 0


def test_the_provenance_names_the_commit_the_tools_and_the_files(made: Made) -> None:
    found = statement(made.folder)
    assert (found["_type"], found["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    assert {one["name"]: one["digest"]["sha256"] for one in found["subject"]} == {
        name: digest(made.folder / name) for name in ARTEFACTS
    }
    source, *libraries = found["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert source["digest"] == {"gitCommit": git(made.checkout, "rev-parse", "HEAD").strip()}
    assert source["uri"].endswith(f"@refs/tags/v{__version__}")
    assert {"hatchling", "trio", "pyyaml"} <= {one["uri"].removeprefix("pkg:pypi/").split("@")[0] for one in libraries}
    tools = found["predicate"]["runDetails"]["builder"]["version"]
    assert set(tools) == {"python", "nfpm", *RELEASE_TOOLS.values()}
    assert f"{nfpm_program().name}" == f"nfpm-{tools['nfpm']}"


def test_built_twice_all_but_signatures_is_the_same_and_earlier_versions_stay(made: Made, tmp_path: Path) -> None:
    earlier = make_earlier(tmp_path / "earlier", made)
    again, _ = run(
        made.checkout, made.home, made.key, tmp_path / "again", "--earlier", earlier, TZ="Asia/Tokyo", COLUMNS="40"
    )
    same = {name for name in ARTEFACTS if not name.endswith(".rpm")}
    assert {name for name in same if digest(again / name) != digest(made.folder / name)} == set()
    unsigned = [statement(folder)["predicate"]["runDetails"]["byproducts"] for folder in (made.folder, again)]
    assert unsigned[0] == unsigned[1]
    assert {one["name"] for one in unsigned[0]} == {*FEDORA, *EL}

    assert files(again) >= {"apt/pool/exclave_0.0.1-1_all.deb", "rpm/fedora/exclave-0.0.1-1.noarch.rpm"}
    for arch in ("amd64", "arm64"):
        listed = (again / f"apt/dists/stable/main/binary-{arch}/Packages").read_text()
        assert set(re.findall(r"^Version: (.*)", listed, re.MULTILINE)) == {"0.0.1-1", f"{__version__}-1"}
    (index,) = (again / "rpm/fedora/repodata").glob("*-primary.xml.gz")
    assert set(re.findall(r'ver="([^"]*)" rel="1"', gzip.decompress(index.read_bytes()).decode())) == {
        "0.0.1",
        __version__,
    }


def make_earlier(folder: Path, made: Made) -> Path:
    """A release of an earlier version that has one package of each kind, signed by the same key."""
    config = folder.with_suffix(".json")
    named = {"name": "exclave", "arch": "all", "version": "0.0.1", "release": "1", "maintainer": "nobody"}
    config.write_text(json.dumps(named))
    for kind, place in (("deb", "apt/pool"), ("rpm", "rpm/fedora")):
        (folder / place).mkdir(parents=True)
        command = [nfpm_program(), "package", "--config", config, "--packager", kind, "--target", f"{folder / place}/"]
        subprocess.run(command, check=True, capture_output=True)
    sign_sums(folder, made.home, made.key)
    return folder


# What is refused. Nothing is there afterwards.


def refused(made: Made, folder: Path, *words: str | Path, key: str = "", checkout: Path | None = None,
            version: str = __version__, status: int = 1, **environment: str) -> list[str]:  # fmt: skip
    before = sorted(folder.parent.rglob("*"))
    given = (version, folder, "--key", key or made.key, "--without-image", *words)
    done = release(checkout or made.checkout, made.home, *given, **environment)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(folder.parent.rglob("*")) == before
    return [line.removeprefix("packaging/release: ") for line in done.stderr.splitlines()]


def test_a_checkout_with_changes_another_version_or_no_tag_is_refused(made: Made, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    git(tmp_path, "clone", "--quiet", "--no-tags", str(made.checkout), "checkout")
    (tmp_path / "out").mkdir()
    assert refused(made, tmp_path / "out/new", checkout=checkout) == [
        f"the commit has no tag v{__version__}: git tag --sign v{__version__}"
    ]
    git(checkout, "tag", f"v{__version__}")
    (checkout / "new.py").write_text("")
    (checkout / "LICENSE").write_text("")
    assert refused(made, tmp_path / "out/new", checkout=checkout) == [
        "the checkout has changes that are not committed:  M LICENSE, ?? new.py"
    ]
    git(checkout, "reset", "--quiet", "--hard")
    (checkout / "new.py").unlink()
    assert refused(made, tmp_path / "out/new", checkout=checkout, version="7.8.9") == [
        f"this checkout is version {__version__}, not 7.8.9: see agent/exclave/__init__.py",
        "the commit has no tag v7.8.9: git tag --sign v7.8.9",
    ]
    (checkout / "agent/exclave/__init__.py").write_text('__version__ = "7.8.9"\n')
    git(checkout, "commit", "--quiet", "--all", "--message", "another version")
    git(checkout, "tag", "v7.8.9")
    assert refused(made, tmp_path / "out/new", checkout=checkout, version="7.8.9") == [
        f"packaging/changelog begins with {__version__}-1, but this is version 7.8.9: add an entry"
    ]


def test_a_key_that_cannot_sign_is_refused(made: Made, tmp_path: Path) -> None:
    assert refused(made, tmp_path / "new", key="nobody@localhost") == [
        "gpg has no secret key nobody@localhost: gpg --list-secret-keys lists those of this GnuPG home"
    ]
    expired = make_key(made.home, "an expired key", expires="1y", at="20200101T000000")
    assert refused(made, tmp_path / "new", key=expired) == [
        f"the key {expired} expired on 2020-12-31: gpg --quick-set-expire {expired} 1y extends it"
    ]
    certifier = make_key(made.home, "a certifier", usage="cert")
    assert refused(made, tmp_path / "new", key=certifier) == [
        f"the key {certifier} cannot sign: a release needs one with a valid part for signing"
    ]
    [line] = refused(made, tmp_path / "new", key="a")
    assert re.fullmatch(r"gpg has \d secret keys a: name one by its fingerprint", line)


def test_a_key_whose_passphrase_nobody_enters_is_refused_before_anything_is_built(made: Made, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="gpg") as short, open_keyring(Path(short) / "home") as home:
        key = make_key(home, "locked", passphrase="a secret")
        (home / "gpg-agent.conf").write_text("pinentry-program /bin/false\n")
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
        done = release(made.checkout, home, __version__, tmp_path / "new", "--key", key, "--without-image")
    assert done.returncode == 1
    assert done.stderr.startswith("packaging/release: gpg cannot sign: ")
    assert (done.stdout, list(tmp_path.iterdir())) == ("", [])


def test_a_folder_with_something_in_it_is_refused(made: Made, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        [line] = refused(made, tmp_path / name)
        assert line == f"{tmp_path / name} is not an empty folder: name a new one"


def test_missing_programs_are_named_by_their_packages(made: Made, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("git", "gpg"):
        (programs / name).symlink_to(str(shutil.which(name)))
    [line] = refused(made, tmp_path / "new", PATH=str(programs))
    assert line == "programs are missing: apt install apt-utils createrepo-c rpm"
    [line] = refused(made, tmp_path / "new", PATH=str(tmp_path))
    assert line == "programs are missing: apt install apt-utils createrepo-c git gnupg rpm"


def test_an_earlier_release_that_was_changed_or_is_somebody_elses_is_refused(made: Made, tmp_path: Path) -> None:
    earlier = make_earlier(tmp_path / "earlier", made)
    (package,) = (earlier / "apt/pool").iterdir()
    package.write_bytes(package.read_bytes() + b"x")
    [line] = refused(made, tmp_path / "new", "--earlier", earlier)
    assert line == f"{package} is not the one that was released: copy that release again"
    sign_sums(earlier, made.home, make_key(made.home, "somebody else"))
    [line] = refused(made, tmp_path / "new", "--earlier", earlier)
    assert line == f"{earlier} is no release that this key has signed: name the folder with its SHA256SUMS"


def test_a_build_that_fails_leaves_nothing(made: Made, tmp_path: Path) -> None:
    broken = tmp_path / "nfpm-broken"
    broken.write_text("#!/bin/sh\necho no such package; exit 1\n")
    broken.chmod(0o755)
    assert refused(made, tmp_path / "new", NFPM=str(broken)) == ["nfpm: no such package"]
    broken.write_text("#!/bin/sh\nkill -s TERM $PPID; exec sleep 60\n")
    assert refused(made, tmp_path / "new", status=130, NFPM=str(broken)) == ["interrupted; there is no release"]


def test_the_command_prepares_what_it_needs_and_explains_itself() -> None:
    done = subprocess.run([TOP / "packaging/release", "--help"], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("usage: packaging/release ")
