"""The proxy's output stays bounded, and its last words are found."""

from pathlib import Path

import pytest

from exclave.proxy.process.logfile import (
    MAX_LINE,
    MAX_SIZE,
    REMAINING_SIZE,
    cut_output,
    last_line,
    output_path,
    remove_output,
)


def test_each_instance_has_a_file_of_its_own(tmp_path: Path) -> None:
    assert output_path(tmp_path, "a").name == "proxy-a.log"
    assert output_path(tmp_path, "a") != output_path(tmp_path, "b")


def test_a_file_that_is_not_too_large_is_left_alone(tmp_path: Path) -> None:
    path = output_path(tmp_path, "a")
    path.write_bytes(b"x" * MAX_SIZE)
    cut_output(path)
    assert path.stat().st_size == MAX_SIZE
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_too_large_is_emptied_and_its_newest_part_kept(tmp_path: Path) -> None:
    path = output_path(tmp_path, "a")
    with path.open("ab", buffering=0) as writer:
        writer.write(b"old\n" + b"x" * MAX_SIZE + b"\nnewest\n")
        cut_output(path)
        writer.write(b"later\n")  # the proxy goes on writing to the file that it has open
    assert path.read_bytes() == b"later\n"
    moved = (tmp_path / "proxy-a.log.1").read_bytes()
    assert len(moved) == REMAINING_SIZE
    assert moved.endswith(b"\nnewest\n")


@pytest.mark.parametrize("mode", [0o640, 0o600])
def test_the_older_part_is_for_the_same_readers_as_the_file(tmp_path: Path, mode: int) -> None:
    path, older = output_path(tmp_path, "a"), tmp_path / "proxy-a.log.1"
    for _ in range(2):
        path.write_bytes(b"x" * (MAX_SIZE + 1))
        path.chmod(mode)
        cut_output(path)
        assert (older.stat().st_mode & 0o777, older.stat().st_size) == (mode, REMAINING_SIZE)
        older.chmod(0o644)  # as earlier versions left it


def test_a_file_that_is_not_there_is_no_problem(tmp_path: Path) -> None:
    cut_output(output_path(tmp_path, "a"))
    remove_output(tmp_path, "a")
    assert last_line(output_path(tmp_path, "a")) == ""
    assert list(tmp_path.iterdir()) == []


WORDS = {
    "the last line": (b"first\nlast\n", "last"),
    "one without an end": (b"first\nlast", "last"),
    "blanks after it": (b"last\n\n  \n", "last"),
    "bytes that are no text": (b"caf\xe9\n", "caf\N{REPLACEMENT CHARACTER}"),
    "nothing": (b"\n\n", ""),
    "a very long line": (b"x" * 3000, "x" * MAX_LINE),
}


@pytest.mark.parametrize(("content", "words"), WORDS.values(), ids=WORDS)
def test_last_words(tmp_path: Path, content: bytes, words: str) -> None:
    path = output_path(tmp_path, "a")
    path.write_bytes(content)
    assert last_line(path) == words


def test_all_of_an_instances_files_are_forgotten(tmp_path: Path) -> None:
    for name in ("proxy-a.log", "proxy-a.log.1", "proxy-b.log"):
        (tmp_path / name).touch()
    remove_output(tmp_path, "a")
    assert [path.name for path in tmp_path.iterdir()] == ["proxy-b.log"]
