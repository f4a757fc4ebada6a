"""The demo on a real Kubernetes, as its user starts it: the same story, and the words of the real guard."""

import json
import os
import subprocess
import sys

from exclave_sandbox.stage.control_plane import NEWEST
from peers.kubernetes import AVAILABLE, cache
from support.needs import need

DEMO = [sys.executable, "-m", "exclave", "demo", "--kubernetes", "--json"]
NEARLY_FOREVER = 400


def test_the_whole_story_passes_on_a_real_api_server_and_its_guard_refuses_a_thief() -> None:
    need(os.geteuid() == 0, "making network namespaces needs root")
    need(NEWEST in AVAILABLE, f"Kubernetes {NEWEST} is not in {cache()}")
    told = subprocess.run(DEMO, capture_output=True, text=True, timeout=NEARLY_FOREVER)
    story = json.loads(told.stdout)
    failed = {step["title"]: step["detail"] for step in story["steps"] if not step["passed"]}
    assert not failed, told.stderr
    assert (told.returncode, story["failed"]) == (0, 0)
    guarded = next(step for step in story["steps"] if step["title"] == "Kubernetes v1.37.2 guards it")
    words = " ".join(guarded["detail"].split())
    assert "a join token makes the members of its own names, as many as it has uses, and nothing else" in words
    assert "cannot list resource" in words
