"""What a test needs of the machine: without it the test is skipped, saying why; in CI that is a failure."""

import os

import pytest


def need(condition: bool, why: str) -> None:
    """Go on if the condition holds; else skip, or fail where EXCLAVE_CI=1 promises that it can run."""
    if condition:
        return
    if os.environ.get("EXCLAVE_CI") == "1":
        pytest.fail(f"CI must be able to run this: {why}", pytrace=False)
    pytest.skip(why)
