"""The files of each package, as they lie on a machine."""

import gzip
import shutil
from pathlib import Path

from changelog import Entry
from exclave.admin.main import build_parser
from exclave.cli.config_text import example_config, help_text, man_page
from exclave.cli.main import _parser as agent_parser
from exclave.errors import Fault
from manpages import as_written, command_page
from metadata import Target
from modules import needed_files
from vendor import unpack_libraries

PACKAGING = Path(__file__).resolve().parent
TOP = PACKAGING.parent
SOURCE = TOP / "agent"

FILES = {
    "/etc/exclave/config.toml": "settings; see exclave-config(5)",
    "/var/lib/exclave-proxies": "the proxies that are installed, and a link to the one in use",
    "/var/lib/exclave": "the membership and its keys",
    "/run/exclave": "sockets, locks and the records of the proxies",
}


def stage(target: Target, root: Path, entry: Entry) -> None:
    """Make the files of a package below `root`."""
    home = f"usr/lib/{target.name}"
    if target.name == "exclave":
        stage_agent(target, root, entry)
    else:
        stage_admin(target, root, entry)
    if target.vendored:
        unpack_libraries(root / home / "vendor", target.name, target.arch)
    if target.kind == "deb":
        text = (PACKAGING / "deb/rtupdate").read_text(encoding="utf-8").replace("@PACKAGE@", target.name)
        write(root / f"usr/share/python3/runtime.d/{target.name}.rtupdate", text, 0o755)
        documents = root / "usr/share/doc" / target.name
        copy(PACKAGING / "copyright", documents / "copyright")
        write_compressed(documents / "changelog.Debian.gz", (PACKAGING / "changelog").read_text(encoding="utf-8"))
        for overrides in [PACKAGING / f"deb/{target.name}.lintian-overrides"]:
            if overrides.is_file():
                copy(overrides, root / "usr/share/lintian/overrides" / target.name)
    else:
        copy(TOP / "LICENSE", root / "usr/share/licenses" / target.name / "LICENSE")


def stage_agent(target: Target, root: Path, entry: Entry) -> None:
    """The package exclave: no admin's commands, no controller."""
    without = ("exclave.admin", "exclave.controller")
    copy_code(root / "usr/lib/exclave", needed_files(SOURCE, "exclave.cli.main", without=without))
    write_launcher(root, "exclave", target, "exclave.cli.main", "main")
    systemd = TOP / "systemd"
    for unit in sorted([*systemd.glob("*.service"), *systemd.glob("*.target")]):
        copy(unit, root / "usr/lib/systemd/system" / unit.name)
    for settings in sorted(systemd.glob("*.d/*.conf")):
        copy(settings, root / "usr/lib/systemd/system" / settings.relative_to(systemd))
    copy(systemd / "exclave.sysusers", root / "usr/lib/sysusers.d/exclave.conf")
    copy(systemd / "exclave.tmpfiles", root / "usr/lib/tmpfiles.d/exclave.conf")
    copy(systemd / "exclave.preset", root / "usr/lib/systemd/system-preset/90-exclave.preset")
    write(root / "etc/exclave/config.toml", example_config())
    write_compressed(root / "usr/share/man/man5/exclave-config.5.gz", man_page())
    page = command_page(
        agent_parser(),
        8,
        entry.date,
        without=("demo", "admin", "controller"),
        exit_status={0: "success"} | {fault.code: fault.word for fault in Fault},
        files=FILES,
        see_also=("exclave-config(5)", "kubectl-exclave(1)"),
    )
    # exclave-config(5) has what `exclave run --help` adds.
    page = page.replace("\n".join(as_written(help_text())) + "\n", "")
    write_compressed(root / "usr/share/man/man8/exclave.8.gz", page)


def stage_admin(target: Target, root: Path, entry: Entry) -> None:
    """The package exclave-admin: kubectl-exclave under the names by which kubectl, linkerd and shells find it."""
    copy_code(root / "usr/lib/exclave-admin", needed_files(SOURCE, "exclave.admin.main"))
    write_launcher(root, "kubectl-exclave", target, "exclave.admin.main", "main")
    (root / "usr/bin/linkerd-exclave").symlink_to("kubectl-exclave")
    write_launcher(root, "kubectl_complete-exclave", target, "exclave.admin.main", "complete_for_kubectl")
    copy(PACKAGING / "completion/bash", root / "usr/share/bash-completion/completions/kubectl-exclave")
    zsh = "usr/share/zsh/vendor-completions" if target.kind == "deb" else "usr/share/zsh/site-functions"
    copy(PACKAGING / "completion/zsh", root / zsh / "_kubectl-exclave")
    manuals = root / "usr/share/man/man1"
    page = command_page(build_parser("kubectl-exclave"), 1, entry.date, see_also=("exclave(8)", "kubectl(1)"))
    write_compressed(manuals / "kubectl-exclave.1.gz", page)
    for name in ("linkerd-exclave", "kubectl_complete-exclave"):
        write_compressed(manuals / f"{name}.1.gz", ".so man1/kubectl-exclave.1\n")


def write_launcher(root: Path, name: str, target: Target, module: str, function: str) -> None:
    """Write /usr/bin/`name`, which runs a function of a module."""
    folders = [f"/usr/lib/{target.name}", *([f"/usr/lib/{target.name}/vendor"] if target.vendored else [])]
    text = (PACKAGING / "launcher.in").read_text(encoding="utf-8")
    for word, value in {
        # -S: without the packages of the distribution, which may have other versions of the libraries.
        "PYTHON": "/usr/bin/python3.12 -ISB" if target.vendored else "/usr/bin/python3 -IB",
        "WHAT": f"Runs {name}.",
        "FOLDERS": ", ".join(f'"{folder}"' for folder in folders),
        "MODULE": module,
        "FUNCTION": function,
    }.items():
        text = text.replace(f"@{word}@", value)
    write(root / "usr/bin" / name, text, 0o755)


def copy_code(folder: Path, files: list[Path]) -> None:
    """Copy files below SOURCE into `folder`, in the same order of folders."""
    for path in files:
        copy(path, folder / path.relative_to(SOURCE))


def copy(source: Path, target: Path, mode: int = 0o644) -> None:
    """Copy one file, with this mode."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def write(target: Path, text: str, mode: int = 0o644) -> None:
    """Write one text file, with this mode."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    target.chmod(mode)


def write_compressed(target: Path, text: str) -> None:
    """Write one text file by gzip, without a name and a time in it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
