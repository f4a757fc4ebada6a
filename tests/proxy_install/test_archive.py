"""Archives that are made to do harm."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from exclave.proxy_install import archive
from exclave.proxy_install.archive import extract
from exclave.proxy_install.manifest import BadImage
from support.registry import PATH, entry, layer, layer_with


async def extracted(folder: Path, content: bytes, compression: str = "gz") -> bytes | None:
    (folder / "layer").write_bytes(content)
    is_there = await extract(folder / "layer", compression, PATH, folder / "program")
    return (folder / "program").read_bytes() if is_there else None


async def test_the_file_is_found_compressed_and_plain(tmp_path: Path) -> None:
    assert await extracted(tmp_path, layer_with(b"proxy")) == b"proxy"
    (tmp_path / "program").unlink()
    assert await extracted(tmp_path, gzip.decompress(layer_with(b"proxy", f"./{PATH}")), "") == b"proxy"
    (tmp_path / "program").unlink()
    assert await extracted(tmp_path, layer_with(b"proxy", f"/{PATH}")) == b"proxy"


async def test_a_layer_without_the_file_is_no_fault(tmp_path: Path) -> None:
    assert await extracted(tmp_path, layer_with(b"other", f"{PATH}-init")) is None


LINKS = {
    "symbolic link": entry(PATH, tarfile.SYMTYPE, linkname="/etc/shadow"),
    "hard link": entry(PATH, tarfile.LNKTYPE, linkname="/etc/shadow"),
    "device": entry(PATH, tarfile.CHRTYPE, devmajor=1, devminor=5),
    "pipe": entry(PATH, tarfile.FIFOTYPE),
    "folder": entry(PATH, tarfile.DIRTYPE),
}


@pytest.mark.parametrize("one", LINKS.values(), ids=LINKS)
async def test_the_file_must_be_a_regular_one(tmp_path: Path, one: tarfile.TarInfo) -> None:
    with pytest.raises(BadImage, match="no regular file"):
        await extracted(tmp_path, layer((one, b"")))
    assert not (tmp_path / "program").exists()


async def test_other_entries_reach_no_path(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    content = layer(
        (entry(str(outside)), b"1"), (entry(f"../{outside.name}"), b"2"), (entry(PATH), b"proxy"),
    )  # fmt: skip
    inside = tmp_path / "inside"
    inside.mkdir()
    assert await extracted(inside, content) == b"proxy"
    assert not outside.exists()


async def test_an_archive_that_unpacks_huge_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_UNPACKED", 1_000_000)
    content = layer((entry("zeros"), bytes(2_000_000)), (entry(PATH), b"proxy"))
    assert len(content) < 10_000
    with pytest.raises(BadImage, match="unpacks to more bytes"):
        await extracted(tmp_path, content)


async def test_a_program_of_an_impossible_size_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "LARGEST_PROGRAM", 1000)
    with pytest.raises(BadImage, match="1001 bytes, more than any proxy"):
        await extracted(tmp_path, layer_with(bytes(1001)))
    assert not (tmp_path / "program").exists()


async def test_a_huge_header_is_refused(tmp_path: Path) -> None:
    long = entry("x" * 100_000)
    with pytest.raises(BadImage, match="a header of"):
        await extracted(tmp_path, layer((long, b""), (entry(PATH), b"proxy")))


async def test_endless_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_ENTRIES", 10)
    with pytest.raises(BadImage, match="more than 10 entries"):
        await extracted(tmp_path, layer(*((entry(f"f{number}"), b"") for number in range(11))))


def sparse() -> bytes:
    """A GNU sparse file: its map may claim any size."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as opened:
        opened.addfile(entry(PATH, tarfile.GNUTYPE_SPARSE))
    return gzip.compress(made.getvalue())


BROKEN = {
    "empty": b"",
    "no gzip": b"<html>",
    "cut": layer_with(b"proxy" * 10_000)[:100],
    "no tar": gzip.compress(b"text" * 1000),
    "sparse": sparse(),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
async def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BadImage):
        await extracted(tmp_path, content)
