"""Which program stands at a path, with real files and virtual time."""

import os
import shutil
from pathlib import Path

import trio
import trio.testing

from exclave.proxy.process.binary_id import SETTLING, BinaryWatch, identify_binary


async def test_a_program_is_known_by_its_file_and_its_content(tmp_path: Path) -> None:
    path = tmp_path / "proxy"
    path.write_bytes(b"one")
    first = await identify_binary(path)
    assert first is not None
    assert first.stamp.split(":")[1:3] == [str(path.stat().st_ino), "3"]
    shutil.copy(path, tmp_path / "again")
    os.replace(tmp_path / "again", path)  # as a package that is installed again
    again = await identify_binary(path, first)
    assert again is not None
    assert (again.digest, again.stamp != first.stamp) == (first.digest, True)


async def test_the_content_of_a_known_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "proxy"
    path.write_bytes(b"one")
    known = await identify_binary(path)
    assert known is not None
    os.truncate(path, 0)
    path.write_bytes(b"two")
    os.utime(path, ns=(0, int(known.stamp.split(":")[3])))  # nobody could tell without reading
    assert await identify_binary(path, None, known) == known


async def test_a_missing_program_is_none(tmp_path: Path) -> None:
    assert await identify_binary(tmp_path / "proxy") is None


async def test_another_file_counts_once_it_stays_as_it_is(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "proxy"
    path.write_bytes(b"one")
    running, watch = await identify_binary(path), BinaryWatch(path)
    assert await watch.poll(running) == running
    for size in (1, 2, 3):  # it is being written
        path.write_bytes(b"x" * size)
        os.utime(path, ns=(size, size))
        assert await watch.poll(running) == running
        await trio.sleep(SETTLING / 2)
    await trio.sleep(SETTLING / 2)
    assert await watch.poll(running) == await identify_binary(path) != running


async def test_a_program_that_was_removed_is_no_other_one(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "proxy"
    path.write_bytes(b"one")
    running, watch = await identify_binary(path), BinaryWatch(path)
    path.unlink()
    for _ in range(3):
        assert await watch.poll(running) == running
        await trio.sleep(SETTLING)
