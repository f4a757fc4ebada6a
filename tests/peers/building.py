"""Builds the real servers that the tests run against, once, into the cache: `building.py [RELEASE …]`.

Rules: kube-apiserver and kube-controller-manager come from their Go module, which Go's checksum database vouches for;
etcd comes from Debian's package, unpacked and not installed, so no service starts. `judge` has the libraries that check
certificates in linkerd2-proxy, from crates.io, with checksums in its lock file. helm and kustomize, which tests of the
chart run, are Go modules, too. What is there is not built again.
It needs Go, Rust, apt, and their networks: four to ten minutes a release on two cores, two for the judge, five for
helm, and 4 GiB of disk for Go's own cache.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "agent"), str(Path(__file__).resolve().parents[1])]

from peers.chart_programs import helm_path, kustomize_path, link_flags  # noqa: E402
from peers.kubernetes import RELEASES, cache, is_built  # noqa: E402

MODULES = Path(__file__).with_name("modules")
JUDGE = Path(__file__).with_name("judge")
COMMANDS = ("kube-apiserver", "kube-controller-manager")
NEWEST = next(iter(RELEASES))
CHART_PROGRAMS = {
    helm_path(): ("helm", "helm.sh/helm/v3/cmd/helm"),
    kustomize_path(): ("kustomize", "sigs.k8s.io/kustomize/kustomize/v5"),
}
"""The folder of the module, and the package, of each."""


class CannotBuild(Exception):
    """What is missing, and where it comes from."""


def build_etcd(target: Path) -> None:
    """Take etcd out of Debian's package."""
    with tempfile.TemporaryDirectory() as folder:
        download = ["apt-get", "download", "-q", "etcd-server"]
        try:
            run(download, folder, "Debian's package etcd-server")
        except CannotBuild:  # a fresh machine has no lists of packages yet
            sudo = [] if os.geteuid() == 0 else ["sudo"]
            run([*sudo, "apt-get", "update", "-q"], folder, "the lists of Debian's packages")
            run(download, folder, "Debian's package etcd-server")
        (package,) = Path(folder).glob("etcd-server_*.deb")
        run(["dpkg", "-x", str(package), "unpacked"], folder, "dpkg")
        place(Path(folder, "unpacked/usr/bin/etcd"), target)


def build_kubernetes(release: str, target: Path, commands: Sequence[str]) -> None:
    """Build some of the programs of a release."""
    version = RELEASES[release]
    minor = release.partition(".")[2]
    stamp = "k8s.io/component-base/version"
    values = [f"{stamp}.gitVersion={version}", f"{stamp}.gitMajor=1", f"{stamp}.gitMinor={minor}"]
    programs = {f"k8s.io/kubernetes/cmd/{command}": target / command for command in commands}
    build_with_go(release, values, programs, f"Kubernetes {version}")


def build_chart_program(target: Path) -> None:
    """Build helm or kustomize."""
    module, package = CHART_PROGRAMS[target]
    build_with_go(module, link_flags()[target], {package: target}, target.name)


def build_with_go(module: str, values: Sequence[str], programs: Mapping[str, Path], what: str) -> None:
    """Build packages of a folder in `modules`. `values` are variables that the linker sets."""
    go = shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin")
    if go is None:
        raise CannotBuild("Go is not installed: see https://go.dev/dl")
    flags = " ".join(["-s -w", *(f"-X {value}" for value in values)])
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(MODULES / module / "go.mod", folder)
        for package, target in programs.items():
            build = [go, "build", "-mod=mod", "-trimpath", "-ldflags", flags, "-o", "built", package]
            run(["env", "CGO_ENABLED=0", f"GOTMPDIR={folder}", *build], folder, f"Go, building {what}")
            place(Path(folder, "built"), target)


def build_judge(target: Path) -> None:
    """Build the program that judges certificates with rustls-webpki."""
    cargo = shutil.which("cargo", path=f"{os.environ['PATH']}:{Path.home() / '.cargo/bin'}")
    if cargo is None:
        raise CannotBuild("Rust is not installed: see https://rustup.rs, or Debian's package cargo")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(JUDGE, Path(folder, "judge"))
        build = [cargo, "build", "--release", "--locked", "--target-dir", str(Path(folder, "target"))]
        run(build, str(Path(folder, "judge")), "Rust, building the judge of certificates")
        place(Path(folder, "target/release/judge"), target)


def place(built: Path, target: Path) -> None:
    """Put a file there whole, or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f"{target.name}.half")
    shutil.copy(built, half)
    half.chmod(0o755)
    half.rename(target)


def run(command: list[str], folder: str, what: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotBuild(f"{what} failed:\n{done.stderr[-2000:]}")


def main(wanted: Sequence[str]) -> int:
    """Build what is missing of the wanted releases, or of all and kubectl; the exit code."""
    try:
        if not (cache() / "etcd").exists():
            print("taking etcd out of Debian's package")
            build_etcd(cache() / "etcd")
        if not wanted and not (cache() / "judge").exists():
            print("building the judge of certificates", flush=True)
            try:
                build_judge(cache() / "judge")
            except CannotBuild as problem:  # not a server: the tests that need it are skipped, and print the reason
                print(f"the judge of certificates cannot be built: {problem}", file=sys.stderr)
        for release, version in RELEASES.items():
            if wanted and release not in wanted:
                continue
            if not is_built(release):
                print(f"building Kubernetes {version} into {cache()}: this takes some minutes, once", flush=True)
                build_kubernetes(release, cache() / version, COMMANDS)
            if release == NEWEST and not wanted and not (cache() / version / "kubectl").exists():
                print(f"building kubectl {version} into {cache()}", flush=True)
                build_kubernetes(release, cache() / version, ["kubectl"])
        for target in CHART_PROGRAMS:
            if not wanted and not target.exists():
                print(f"building {target.name} into {cache()}: this takes some minutes, once", flush=True)
                build_chart_program(target)
    except CannotBuild as problem:
        print(f"the real servers cannot be built: {problem}", file=sys.stderr)
        if wanted:
            return 1
        print("their tests are skipped, but for CI, which must be able to build them", file=sys.stderr)
        return 1 if os.environ.get("EXCLAVE_CI") == "1" else 0
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # Go is ended, and its folder removed
    sys.exit(main(sys.argv[1:]))
