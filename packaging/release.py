"""Builds a signed release: repositories of packages, Python distribution, chart, kustomize base, image, statements.

Everything is built in a folder beside the wanted one, which gets its name when it is complete. The same commit gives
the same bytes, but for what has a signature or the digest of one in it; agent/docs/releasing.md lists those files.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGING = Path(__file__).resolve().parent
TOP = PACKAGING.parent
sys.path[:0] = [str(PACKAGING), str(TOP / "agent")]

import exclave  # noqa: E402
import packages  # noqa: E402
from changelog import read_changelog  # noqa: E402
from lock import Locked, read_lock  # noqa: E402
from repositories import make_apt_repository, make_rpm_repository, sign_copies  # noqa: E402
from signing import CannotSign, Key, find_key, sign_beside, verify  # noqa: E402
from statements import Artefact, Source, bill_of_materials, provenance  # noqa: E402
from vendor import CannotFetch  # noqa: E402

TOOLS = {
    "apt-ftparchive": "apt-utils",
    "createrepo_c": "createrepo-c",
    "git": "git",
    "gpg": "gnupg",
    "rpmsign": "rpm",
}
"""Programs that a release needs, and Debian's packages of them."""

IMAGE_TOOLS = {"buildah": "buildah"}

KEY_FILE, SUMS = "exclave.asc", "SHA256SUMS"
RPM_SYSTEMS = ("fedora", "el")


class Refused(Exception):
    """Reasons why no release is built. Nothing has changed."""


def git(*words: str) -> str:
    """What git answers in this checkout. Raises CalledProcessError."""
    return subprocess.run(["git", *words], cwd=TOP, check=True, capture_output=True, text=True).stdout


def reasons_against(version: str, folder: Path, tools: dict[str, str]) -> Iterator[str]:
    """Each reason why this version cannot be built into this folder."""
    missing = sorted({package for program, package in tools.items() if shutil.which(program) is None})
    if missing:
        yield f"programs are missing: apt install {' '.join(missing)}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        yield f"{folder} is not an empty folder: name a new one"
    if version != exclave.__version__:
        yield f"this checkout is version {exclave.__version__}, not {version}: see agent/exclave/__init__.py"
    newest = read_changelog(PACKAGING / "changelog").version
    if newest != f"{packages.package_version(exclave.__version__)}-1":
        yield f"packaging/changelog begins with {newest}, but this is version {exclave.__version__}: add an entry"
    if "git" in missing:
        return
    try:
        changed = git("status", "--porcelain").splitlines()
        tags = git("tag", "--points-at", "HEAD").split()
    except subprocess.CalledProcessError as problem:
        yield f"{TOP} is no checkout of git with a commit: {problem.stderr.strip()}"
        return
    if changed:
        yield f"the checkout has changes that are not committed: {', '.join(changed[:5])}"
    if f"v{version}" not in tags:
        yield f"the commit has no tag v{version}: git tag --sign v{version}"


def report(text: str) -> None:
    """Print what happens now."""
    print(text, flush=True)


def build_python(folder: Path, date: int) -> list[Path]:
    """Build sdist and wheel with the very build tools of the image. Raises CannotFetch, CalledProcessError."""
    with tempfile.TemporaryDirectory(prefix="exclave-hatchling.") as tools:
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", tools]
        install += ["--require-hashes", "--only-binary", ":all:", "-r", str(PACKAGING / "container/build.txt")]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode != 0:
            raise CannotFetch(f"the tools that build the Python distribution cannot be fetched: {done.stderr.strip()}")
        environment = os.environ | {"PYTHONPATH": tools, "SOURCE_DATE_EPOCH": str(date)}
        command = [sys.executable, "-B", "-m", "hatchling", "build", "--directory", str(folder)]
        subprocess.run(command, cwd=TOP, env=environment, check=True, capture_output=True, text=True)
    return sorted(folder.iterdir())


def archive(source: Path, target: Path, name: str, date: int) -> Path:
    """Write a folder as NAME/… into an archive; compressed if its name ends with gz. Raises CalledProcessError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = ["tar", "--create", f"--file={target}", "--format=ustar"]
    command += ["--use-compress-program=gzip -9n"] if target.suffix in (".gz", ".tgz") else []
    command += ["--sort=name", f"--mtime=@{date}", "--owner=0", "--group=0", "--numeric-owner", "--mode=u=rwX,go=rX"]
    command += [f"--transform=s,^{source.name},{name},", f"--directory={source.parent}", source.name]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return target


def build_image(target: Path, work: Path, source: Source) -> Path:
    """Build the controller's image for this machine's architecture as an OCI archive. Raises CalledProcessError."""
    name, layout = f"exclave-controller:{source.version}", work / "image"
    command = ["buildah", "build", "--no-cache", "--format=oci", f"--tag={name}"]
    command += [f"--timestamp={source.date}", f"--build-arg=SOURCE_DATE_EPOCH={source.date}"]
    command += [f"--file={PACKAGING / 'container/Containerfile'}", str(TOP)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    for words in (["push", name, f"oci:{layout}:{name}"], ["rmi", name]):
        subprocess.run(["buildah", *words], check=True, capture_output=True, text=True)
    return archive(layout, target, ".", source.date)


def earlier_packages(folder: Path, key: Key) -> list[Path]:
    """The packages of an earlier release, which this key has signed. Raises Refused."""
    sums = folder / SUMS
    if not sums.is_file() or not verify(sums, sums.with_name(f"{SUMS}.asc"), key):
        raise Refused(f"{folder} is no release that this key has signed: name the folder with its {SUMS}")
    found = []
    for line in sums.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        if name.endswith((".deb", ".rpm")):
            file = folder / name
            if not file.is_file() or digest_of(file) != digest:
                raise Refused(f"{file} is not the one that was released: copy that release again")
            found.append(file)
    return found


def digest_of(file: Path) -> str:
    """SHA-256, in hex."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def contained(file: Path) -> tuple[Locked, ...]:
    """The libraries that are in an artefact."""
    if ".el." in file.name:
        name = "exclave-admin" if file.name.startswith("exclave-admin") else "exclave"
        return tuple(read_lock(name, PACKAGING / "vendor"))
    return tuple(read_lock("requirements")) if file.parent.name == "container" else ()


def artefact(file: Path, folder: Path) -> Artefact:
    """The record of a file in a release."""
    kind = {"python": "pypi", "helm": "helm"}.get(file.parent.name)
    purl = f"pkg:{kind}/exclave@{exclave.__version__}" if kind else ""
    return Artefact(str(file.relative_to(folder)), digest_of(file), purl, contained(file))


def tool_versions(tools: dict[str, str]) -> dict[str, str]:
    """The versions of what builds a release."""
    command = ["dpkg-query", "--show", "--showformat=${Package}=${Version}\\n", *sorted(set(tools.values()))]
    listed = subprocess.run(command, capture_output=True, text=True).stdout.split()
    name, _, version = Path(os.environ["NFPM"]).name.partition("-")
    return {"python": platform.python_version(), name: version, **dict(line.split("=", 1) for line in listed)}


def build_release(target: Path, work: Path, source: Source, key: Key, earlier: list[Path], with_image: bool) -> None:
    """Write all files of a release. Raises CannotFetch, CannotSign, Refused, ValueError, CalledProcessError."""
    report("building the packages")
    built = packages.build(work / "packages", packages.SYSTEMS)
    debs, rpms = ([one for one in built if one.suffix == suffix] for suffix in (".deb", ".rpm"))
    report("building the Python distribution, the chart and the kustomize base")
    files = build_python(target / "python", source.date)
    chart = target / f"helm/exclave-{source.version}.tgz"
    files.append(archive(PACKAGING / "helm/exclave", chart, "exclave", source.date))
    base = f"exclave-kustomize-{source.version}"
    files.append(archive(PACKAGING / "kustomize", target / f"kustomize/{base}.tar.gz", base, source.date))
    if with_image:
        report("building the controller's image")
        image = target / f"container/exclave-controller-{source.version}.oci.tar"
        files.append(build_image(image, work, source))

    report("signing the rpms and making the repositories")
    signed = sign_copies(rpms, work / "signed", key)
    again = {one.name for one in earlier} & {one.name for one in built}
    if again:
        raise Refused(f"the earlier releases have {', '.join(sorted(again))}, too: each version is released once")
    make_apt_repository(target / "apt", [*debs, *(one for one in earlier if one.suffix == ".deb")], key)
    files += [target / "apt/pool" / one.name for one in debs]
    for system in RPM_SYSTEMS:
        new = [one for one in signed if (".el." in one.name) == (system == "el")]
        older = [one for one in earlier if one.suffix == ".rpm" and one.parent.name == system]
        make_rpm_repository(target / "rpm" / system, [*new, *older], key, source.date)
        files += [target / "rpm" / system / one.name for one in new]

    report("writing the bill of materials, the provenance and the checksums")
    artefacts = [artefact(file, target) for file in sorted(files)]
    inputs = {one for file in artefacts for one in file.contains} | set(read_lock("build"))
    write_json(target / "sbom.spdx.json", bill_of_materials(source, artefacts))
    statement = provenance(
        source,
        artefacts,
        [Artefact(one.name, digest_of(one)) for one in rpms],
        sorted(inputs, key=lambda one: (one.name, one.version, one.hashes)),
        tool_versions(TOOLS | (IMAGE_TOOLS if with_image else {})),
        {"image": with_image, "earlier": sorted(one.name for one in earlier)},
    )
    write_json(target / "provenance.json", statement)
    (target / KEY_FILE).write_text(key.public)
    sums = [f"{digest_of(one)}  {one.relative_to(target)}\n" for one in sorted(target.rglob("*")) if one.is_file()]
    (target / SUMS).write_text("".join(sums))
    sign_beside(target / SUMS, key)


def write_json(file: Path, content: object) -> None:
    """Write one JSON file, in lines."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def run(options: argparse.Namespace) -> None:
    """Check, build, and give the result its name. Raises as build_release does."""
    folder: Path = options.folder.absolute()
    reasons = list(reasons_against(options.version, folder, TOOLS if options.without_image else TOOLS | IMAGE_TOOLS))
    try:
        key = find_key(options.key) if shutil.which("gpg") else None
    except CannotSign as problem:
        reasons.append(str(problem))
    if reasons or key is None:
        raise Refused("\n".join(reasons))
    source = Source(options.version, git("rev-parse", "HEAD").strip(), read_changelog(PACKAGING / "changelog").date)
    report(f"exclave {source.version}, commit {source.commit}, signed by {key.fingerprint}")
    earlier = [file for one in options.earlier for file in earlier_packages(one, key)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".exclave-release.", dir=folder.parent) as temporary:
        work = Path(temporary)
        target = work / "release"
        build_release(target, work, source, key, earlier, not options.without_image)
        for path in [target, *target.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        target.rename(folder)
    report(f"the release is in {folder}")
    if options.without_image:
        report("left out: the controller's image (--without-image)")


def main(words: Sequence[str]) -> int:
    """Run with these arguments. Returns the exit code: 1 refused or failed, 4 nothing to fetch from, 130 ended."""
    parser = argparse.ArgumentParser(prog="packaging/release", description="Builds a signed release of this commit.")
    parser.add_argument("version", metavar="VERSION", help="the version of this checkout, which is tagged vVERSION")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where the release goes; it must be new or empty")
    parser.add_argument("--key", required=True, help="the key in gpg's home ($GNUPGHOME) that signs")
    parser.add_argument(
        "--earlier", metavar="FOLDER", type=Path, action="append", default=[],
        help="an earlier release, whose packages the repositories list, too",
    )  # fmt: skip
    parser.add_argument("--without-image", action="store_true", help="leave out the controller's image")
    os.umask(0o022)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is built so far is removed
    try:
        run(parser.parse_args(words))
    except KeyboardInterrupt:
        print("packaging/release: interrupted; there is no release", file=sys.stderr)
        return 130
    except (Refused, CannotSign, CannotFetch, ValueError, OSError) as problem:
        for line in str(problem).splitlines():
            print(f"packaging/release: {line}", file=sys.stderr)
        return 4 if isinstance(problem, CannotFetch) else 1
    except subprocess.CalledProcessError as problem:
        output = problem.stderr or ""
        text = output if isinstance(output, str) else output.decode(errors="replace")
        print(f"packaging/release: {problem.cmd[0]} failed: {text.strip()[-2000:]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
