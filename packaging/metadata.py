"""What the packages are called, what they need and which scripts they have: nfpm's configuration, from tables."""

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from changelog import Entry
from exclave.kit.host.packages import AGENT, OTHERS, Package

PACKAGING = Path(__file__).resolve().parent

MAINTAINER = "The exclave maintainers <maintainers@exclave.dev>"

AGENT_SUMMARY = "Makes a virtual machine a member of a Linkerd mesh"
AGENT_TEXT = """\
The agent joins this machine to a mesh with one line, the join token. After
that, pods reach the services on the machine and programs on the machine
reach services in the cluster, over mutual TLS and under Linkerd's policies.

Before it has joined, the agent changes nothing on this machine."""

ADMIN_SUMMARY = "Manages virtual machines in a Linkerd mesh, through kubectl"
ADMIN_TEXT = """\
The admin's commands: kubectl-exclave installs exclave in a cluster, creates
groups of machines and join tokens, and lists members. The same commands are
available as "kubectl exclave" and as "linkerd exclave".

They work through kubectl, with its contexts and rights."""

ADMIN = tuple(one for one in (*AGENT, *OTHERS) if one.project in ("cryptography", "PyYAML"))
"""The libraries of the admin's commands. Tests compare this with their imports."""


@dataclass(frozen=True)
class Target:
    """One package file, for Debian and Ubuntu (deb), Fedora (fedora) or EL9 and EL10 (el)."""

    name: str
    system: str
    arch: str

    @property
    def kind(self) -> str:
        """deb or rpm."""
        return "deb" if self.system == "deb" else "rpm"

    @property
    def vendored(self) -> bool:
        """True if it has the libraries in it, for Python 3.12 and one `arch`."""
        return self.system == "el"

    @property
    def libraries(self) -> tuple[Package, ...]:
        """The Python packages that its code imports."""
        return AGENT if self.name == "exclave" else ADMIN

    @property
    def release(self) -> str:
        """The revision, with a distribution where two files would have one name."""
        return "1.el" if self.vendored else "1"


TARGETS = tuple(
    Target(name, system, arch)
    for system, arches in (("deb", ["all"]), ("fedora", ["all"]), ("el", ["amd64", "arm64"]))
    for name in ("exclave", "exclave-admin")
    for arch in arches
)


def depends(target: Target) -> list[str]:
    """The packages that must be installed."""
    if target.kind == "deb":
        return [*_debian_python(target), *(["iproute2", "nftables", _SYSUSERS] if target.name == "exclave" else [])]
    system = ["iproute", "nftables", "systemd"] if target.name == "exclave" else []
    if target.vendored:
        return ["/usr/bin/python3.12", "glibc >= 2.34", *system]
    return ["python3 >= 3.11", *(_with_version(one.fedora, ">= {}", one.least) for one in target.libraries), *system]


_SYSUSERS = "systemd | systemd-standalone-sysusers | systemd-sysusers"
"""For the user exclave-proxy. A machine that was booted by systemd has it."""


def _debian_python(target: Target) -> list[str]:
    # Python has tomllib from 3.11 on; all of Debian and Ubuntu that have trio 0.22 have that.
    return ["python3 (>= 3.11)", *(_with_version(one.debian, "(>= {})", one.least) for one in target.libraries)]


def _with_version(name: str, relation: str, least: str) -> str:
    return f"{name} {relation.format(least)}" if least else name


def configuration(target: Target, root: Path, version: str, entry: Entry) -> dict[str, Any]:
    """nfpm's configuration. `root` has the files of the package."""
    summary, text = (AGENT_SUMMARY, AGENT_TEXT) if target.name == "exclave" else (ADMIN_SUMMARY, ADMIN_TEXT)
    is_deb = target.kind == "deb"
    scripts = _scripts(target, root.parent)
    return {
        "name": target.name,
        "arch": target.arch,
        "platform": "linux",
        "version": version,
        "version_schema": "none",
        "release": target.release,
        "mtime": datetime.fromtimestamp(entry.date, timezone.utc).isoformat(),
        "maintainer": MAINTAINER,
        "vendor": "exclave",
        "homepage": "https://exclave.dev",
        **({} if is_deb else _rpm_only(root.parent, f"{version}-{target.release}", entry)),
        "section": "net",
        "priority": "optional",
        "description": f"{summary[0].lower() if is_deb else summary[0]}{summary[1:]}\n{text}",
        "depends": depends(target),
        "suggests": [] if target.name == "exclave" else _suggested(target),
        "contents": _contents(root, target.kind),
        "scripts": {name: path for name, path in scripts.items() if name != "posttrans"},
        "deb": {"compression": "xz"},
        "rpm": {
            "summary": summary,
            "group": "System Environment/Daemons" if target.name == "exclave" else "Applications/System",
            "buildhost": "localhost",
            "scripts": {name: path for name, path in scripts.items() if name == "posttrans"},
        },
    }


def _suggested(target: Target) -> list[str]:
    return ["kubernetes-client", "python3-shtab"] if target.kind == "deb" else ["kubernetes-client"]


def _scripts(target: Target, folder: Path) -> dict[str, str]:
    """The maintainer scripts, by nfpm's names. Writes them into `folder`."""
    written = {}
    for script, names in _SCRIPTS.items():
        source = PACKAGING / target.kind / f"{target.name}.{names[target.kind == 'rpm']}"
        if source.is_file():
            python = "/usr/bin/python3.12" if target.vendored else "/usr/bin/python3"
            copy = folder / source.name
            copy.write_text(source.read_text(encoding="utf-8").replace("@PYTHON@", python), encoding="utf-8")
            written[script] = str(copy)
    return written


def _rpm_only(folder: Path, version: str, entry: Entry) -> dict[str, str]:
    """License and changelog, which a deb has in files. The changelog's form is that of github.com/goreleaser/chglog."""
    date = datetime.fromtimestamp(entry.date, timezone.utc).isoformat()
    changes = [{"note": change} for change in entry.changes]
    path = folder / "changelog.json"
    path.write_text(json.dumps([{"semver": version, "date": date, "packager": MAINTAINER, "changes": changes}]))
    return {"license": "Apache-2.0", "changelog": str(path)}


_SCRIPTS = {
    "postinstall": ("postinst", "post"),
    "preremove": ("prerm", "preun"),
    "postremove": ("postrm", "postun"),
    "posttrans": ("", "posttrans"),
}
"""nfpm's name of a script, then Debian's and rpm's."""


def _file_type(name: str, kind: str) -> str:
    """nfpm's type of a file. For deb, nfpm leaves out licenses and documentation."""
    if name.startswith("/etc/"):
        return "config|noreplace"
    if kind == "rpm" and name.startswith("/usr/share/licenses/"):
        return "license"
    return "doc" if kind == "rpm" and name.startswith("/usr/share/man/") else ""


def _contents(root: Path, kind: str) -> list[dict[str, str]]:
    """Every file, and the folders that belong to the package alone."""
    found = []
    for path in sorted(root.rglob("*")):
        name = f"/{path.relative_to(root)}"
        if path.is_symlink():
            found.append({"src": str(path.readlink()), "dst": name, "type": "symlink"})
        elif path.is_file():
            found.append({"src": str(path), "dst": name, "type": _file_type(name, kind)})
        elif "/exclave" in name:
            found.append({"dst": name, "type": "dir"})
    return found
