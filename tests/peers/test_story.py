"""The demo on a real Kubernetes, as its user starts it: the same steps, and the real refusals of a token's thief."""

import json
import os
import subprocess
import sys

from exclave_sandbox.stage.kubernetes import NEWEST
from peers.kubernetes import AVAILABLE, cache
from support.needs import need

DEMO = [sys.executable, "-m", "exclave", "demo", "--kubernetes", "--json"]
NEARLY_FOREVER = 400


def test_every_step_passes_on_a_real_api_server_which_refuses_a_thief_of_the_token() -> None:
    need(os.geteuid() == 0, "making network namespaces needs root")
    need(NEWEST in AVAILABLE, f"Kubernetes {NEWEST} is not in {cache()}")
    done = subprocess.run(DEMO, capture_output=True, text=True, timeout=NEARLY_FOREVER)
    report = json.loads(done.stdout)
    failed = {step["title"]: step["detail"] for step in report["steps"] if not step["passed"]}
    assert not failed, done.stderr
    assert (done.returncode, report["failed"]) == (0, 0)
    refused = next(
        step for step in report["steps"] if step["title"] == "Kubernetes v1.37.2 refuses a thief of the token"
    )
    words = " ".join(refused["detail"].split())
    assert "a join token makes the members of its own names, as many as it has uses, and nothing else" in words
    assert "cannot list resource" in words
