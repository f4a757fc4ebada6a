"""Comparing, waiting, and snapshots."""

import subprocess

import pytest
import trio

from exclave_sandbox.expect import FILES, SUBJECTS, UnexpectedError, differences, eventually, expect, steady


async def test_eventually_returns_the_first_acceptable_value(autojump_clock: object) -> None:
    began = trio.current_time()

    async def read() -> object:
        return trio.current_time() - began

    assert await eventually("two seconds", read, lambda value: isinstance(value, float) and value >= 2, every=0.5) == 2


async def test_eventually_reports_the_last_value_when_its_time_is_over(
    autojump_clock: object, capsys: pytest.CaptureFixture[str]
) -> None:
    async def read() -> object:
        return "three ports"

    with trio.move_on_after(5):
        await eventually("the port to go", read, lambda value: value == "no port")
    assert capsys.readouterr().err == "waited for the port to go; last value: three ports\n"


def test_a_difference_is_an_error_with_both_values() -> None:
    expect("ports", [80], [80])
    with pytest.raises(UnexpectedError, match=r"^ports: \[80\] was expected, found \[\]$"):
        expect("ports", [], [80])


def test_equal_snapshots_have_no_differences() -> None:
    assert differences({"links": "1: lo\n"}, {"links": "1: lo\n"}) == []


def test_added_and_removed_lines_have_their_subject() -> None:
    before = {"links": "1: lo\n2: eth0\n", "nftables": ""}
    after = {"links": "1: lo\n", "nftables": "table inet exclave {\n}\n"}
    assert differences(before, after) == [
        "links: -2: eth0",
        "nftables: +table inet exclave {",
        "nftables: +}",
    ]


def test_a_subject_that_is_missing_afterwards_differs() -> None:
    assert differences({"routes": "default"}, {}) == ["routes: -default"]


def test_counters_and_lifetimes_make_no_difference() -> None:
    assert steady("valid_lft 86390sec preferred_lft 86390sec") == steady("valid_lft 12sec preferred_lft 12sec")


def test_a_link_that_was_added_is_found_on_a_real_kernel() -> None:
    listing = " ".join(SUBJECTS["links"])
    script = f"{listing}; echo =====; ip link add exclave0 type bridge; {listing}"
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=True)
    before, after = done.stdout.split("=====\n")
    assert any("exclave0" in line for line in differences({"links": before}, {"links": after}))
    assert differences({"links": before}, {"links": before}) == []


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_listing_runs(subject: str) -> None:
    done = subprocess.run(["unshare", "--net", *SUBJECTS[subject]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_files_are_listed_with_mode_owner_and_size() -> None:
    done = subprocess.run(FILES, capture_output=True, text=True)
    assert "No such file" in done.stderr or done.returncode == 0
