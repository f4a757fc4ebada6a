"""The whole demo with the real Linkerd."""

import json
import subprocess
import sys

from exclave_sandbox.linkerd.release import LinkerdBinaries


def test_every_step_passes(release: LinkerdBinaries) -> None:
    command = [sys.executable, "-m", "exclave", "demo", "--json", f"--linkerd={release.folder}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    report = json.loads(done.stdout)
    assert not {step["title"]: step["detail"] for step in report["steps"] if not step["passed"]}, done.stderr
    assert (done.returncode, report["failed"]) == (0, 0)
