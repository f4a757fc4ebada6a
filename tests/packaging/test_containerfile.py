"""The container file of the controller, step by step, as far as possible without a container engine.

What it copies is copied into an empty folder, and what it runs is run there. The controller is then started from what
has been installed, in a root that it cannot write, as nobody, without capabilities. The base image is not tried: this
machine's Python stands for its Python.
"""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from exclave_sandbox.pki import make_anchor
from support.needs import free_port, need

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "packaging"))
lock: Any = importlib.import_module("lock")
sys.path.pop(0)
TEXT = (TOP / "packaging/container/Containerfile").read_text()
STEPS = [line.split(" ", 1) for line in TEXT.replace("\\\n", "").splitlines() if line and not line.startswith("#")]
PREFIX = "/opt/exclave"
INDEX_IS_AWAY = ("Temporary failure in name resolution", "No matching distribution found", "Connection", "timed out")


def steps(kind: str) -> list[str]:
    return [text for word, text in STEPS if word == kind]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in place of the image, with the copied files and the installed packages."""
    image = tmp_path_factory.mktemp("image")
    source = image / "src"
    source.mkdir()
    for copied in steps("COPY"):
        if copied.startswith("--from="):
            continue
        *names, target = shlex.split(copied)
        for name in names:
            found = TOP / name
            if found.is_dir():
                shutil.copytree(found, source / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(found, source / target)
    for step in steps("RUN"):
        command = step.replace("/opt/", f"{image}/")
        command = command.replace("--no-cache-dir", "--disable-pip-version-check")  # fetched once, not at each run
        command = re.sub(r"^python ", lambda _: f"{shlex.quote(sys.executable)} ", command)
        done = subprocess.run(["sh", "-c", command], cwd=source, capture_output=True, text=True)
        is_away = done.returncode != 0 and any(sign in done.stderr for sign in INDEX_IS_AWAY)
        need(not is_away, f"pip found nothing to install from: {done.stderr[-300:]}")
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    return image


def test_what_is_installed_is_the_lock_and_nothing_else(built: Path) -> None:
    """With --require-hashes, pip refuses a wheel of another hash; `pip check`, a step, finds what the lock lacks."""
    code = "from importlib.metadata import distributions as d; print(*{f'{o.name}=={o.version}' for o in d()})"
    done = subprocess.run([built / "exclave/bin/python", "-I", "-c", code], capture_output=True, text=True, check=True)
    installed = {lock.normalized(one.partition("==")[0]): one.partition("==")[2] for one in done.stdout.split()}
    assert installed.pop("exclave") == lock.own_version()
    for tool in ("pip", "setuptools"):  # of the virtual environment itself
        installed.pop(tool, None)
    assert installed == {one.name: one.version for one in lock.read_lock("requirements")}


def numbers(version: str) -> list[int]:
    return [int(one) for one in re.findall(r"\d+", version)]


def test_the_lock_has_each_library_that_the_controller_needs() -> None:
    locked = {one.name: one.version for one in lock.read_lock("requirements")}
    for text in lock.direct_requirements():
        found = re.fullmatch(r"([\w.-]+)>=([\d.]+)(; python_version < '3.11')?", text)
        assert found is not None, f"the lock cannot be compared with {text}"
        if found[3] is None:
            assert numbers(locked[lock.normalized(found[1])]) >= numbers(found[2]), text
    for one in (*lock.read_lock("requirements"), *lock.read_lock("build")):
        assert one.hashes and all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in one.hashes)
    for step in steps("RUN"):
        assert "pip install" not in step or "--require-hashes" in step or "--no-index" in step


def test_the_bill_of_materials_names_each_library_with_its_hashes() -> None:
    command = [sys.executable, TOP / "packaging/lock.py", "sbom"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.5")
    assert found["metadata"]["component"]["purl"] == f"pkg:pypi/exclave@{lock.own_version()}"
    listed = {(one["name"], one["version"]): {each["content"] for each in one["hashes"]} for one in found["components"]}
    assert listed == {(one.name, one.version): set(one.hashes) for one in lock.read_lock("requirements")}
    (dependency,) = found["dependencies"]
    assert dependency["dependsOn"] == [one["bom-ref"] for one in found["components"]]


ROOT = """
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs {root}
for folder in usr bin sbin lib lib64 etc opt; do
    if [ -L /$folder ]; then cp -P /$folder {root}/
    elif [ -d /$folder ]; then mkdir {root}/$folder; mount --rbind -o ro /$folder {root}/$folder; fi
done
mkdir -p {root}/proc {root}/dev {root}{image}
for device in null urandom; do touch {root}/dev/$device; mount --bind /dev/$device {root}/dev/$device; done
mount -t proc proc {root}/proc
mount --bind {image} {root}{image}
mount -o remount,bind,ro {root}{image}
mount -o remount,ro {root}
exec chroot {root} {setpriv} --reuid 65532 --regid 65532 --clear-groups --bounding-set=-all --inh-caps=-all \
    --no-new-privs {command}
"""


def test_the_controller_starts_as_nobody_in_a_root_that_it_cannot_write(built: Path, tmp_path: Path) -> None:
    need(os.geteuid() == 0, "only root makes another root")
    (entry,) = steps("ENTRYPOINT")
    program, *arguments = json.loads(entry)
    for name, text in (("ca.pem", make_anchor().pem), ("token", "x")):
        (built / name).write_text(text)
        (built / name).chmod(0o644)
    built.chmod(0o755)  # the folders above it are made in the other root
    port = free_port()
    command = [
        program.replace(PREFIX, str(built / "exclave")), *arguments, "--server", f"https://127.0.0.1:{free_port()}",
        "--ca-file", built / "ca.pem", "--token-file", built / "token", "--listen", f"127.0.0.1:{port}",
    ]  # fmt: skip
    script = ROOT.format(
        root=tmp_path,
        image=built,
        setpriv=shutil.which("setpriv"),
        command=shlex.join(map(str, command)),
    )
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONDONTWRITEBYTECODE": "1"}
    started = subprocess.Popen(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script],
        stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        assert started.stderr is not None
        wait_healthy(started, port)
        (child,) = (one.pid for one in psutil.Process(started.pid).children())
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{child}/status").read_text().splitlines())
        assert status["Uid"].split() == ["65532"] * 4
        assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapInh")} == {"0" * 16}
        assert status["NoNewPrivs"] == "1"
        mounts = [line.split() for line in Path(f"/proc/{child}/mountinfo").read_text().splitlines()]
        assert {"/": "ro", str(built): "ro"}.items() <= {one[4]: one[5].split(",")[0] for one in mounts}.items()
    finally:
        for one in psutil.Process(started.pid).children():  # the kernel forgets --kill-child when its user changes
            one.kill()
        started.kill()
        started.wait()


def wait_healthy(started: "subprocess.Popen[str]", port: int) -> None:
    """Wait until the controller answers a kubelet's question; it does so without an API server."""
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30) as answer:
                assert answer.read() == b"ok\n"
                return
        except OSError:
            assert started.poll() is None, started.stderr and started.stderr.read()
            assert time.monotonic() < deadline, "the controller does not answer"
            time.sleep(0.2)


def test_the_entry_point_starts_with_what_was_installed(built: Path) -> None:
    (entry,) = steps("ENTRYPOINT")
    program, *arguments = json.loads(entry)
    assert program.startswith(f"{PREFIX}/")
    command = [program.replace(PREFIX, str(built / "exclave")), *arguments, "--help"]
    done = subprocess.run(command, cwd=built, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    assert "--linkerd-namespace" in done.stdout


POLICIES = "from exclave.api.definitions.manifests import admission_objects; print(len(admission_objects('exclave')))"


def test_everything_that_the_controller_imports_or_reads_is_there(built: Path) -> None:
    """`--help` imports little; a controller that leads imports all of it, and reads the policies from a file."""
    python = built / "exclave" / "bin" / "python"
    names = "exclave.controller.replica, exclave.controller.run, exclave.controller.telemetry.metrics"
    done = subprocess.run(
        [python, "-I", "-c", f"import {names}; print(exclave.__file__); {POLICIES}"],
        cwd=built,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(built)), "it is the installed one, not the checkout's"
    assert done.stdout.split()[-1] == "4"


def test_it_runs_as_the_one_whom_the_deployment_names() -> None:
    from exclave.admin.objects import METRICS_PORT, NOBODY

    assert steps("USER") == [f"{NOBODY}:{NOBODY}"]
    assert METRICS_PORT > 1023, "nobody may listen there without a right"


def test_what_the_first_stage_makes_is_what_the_second_takes() -> None:
    (taken,) = [text for text in steps("COPY") if text.startswith("--from=build ")]
    assert shlex.split(taken)[1:] == [PREFIX, PREFIX]
    first, second = steps("FROM")
    assert first == f"{second} AS build", "a virtual environment works with the very Python that made it"
    assert re.fullmatch(r"docker\.io/library/python:3\.13-slim@sha256:[0-9a-f]{64}", second)
