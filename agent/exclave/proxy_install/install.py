"""Installs a proxy: from an image, a URL or a file to a folder of the store, once it has run here.

Nothing is left half done: what was fetched of an image is continued by the next attempt, all else is removed.
"""

import hashlib
import platform
import re
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import httpx
import trio

from exclave import __version__
from exclave.errors import Fault, HostError, UsageError
from exclave.kit.formats.times import rfc3339
from exclave.kit.host.files import hold_lock
from exclave.kit.tasks.wall_clock import Now
from exclave.proxy_install.archive import LARGEST_PROGRAM, extract
from exclave.proxy_install.challenge import read_password
from exclave.proxy_install.download import TIMEOUT, Origin, Report, download_error
from exclave.proxy_install.manifest import ARCHITECTURES, LAYERS, BadImage, Descriptor
from exclave.proxy_install.reference import ImageReference
from exclave.proxy_install.registry import Registry
from exclave.proxy_install.store import PARTIAL, PROGRAM, InstalledProxy, Store, sha256_of

PATH_IN_IMAGE = "usr/lib/linkerd/linkerd2-proxy"
"""Source: linkerd2 Dockerfile.proxy."""

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Check = Callable[[Path], Awaitable[str | None]]
"""Runs a program and returns its version, None if it prints none. Raises HostError if it cannot be used here."""


@dataclass(frozen=True)
class Access:
    """How to reach a source: PEM file with its CA, None for the system's; file with passwords, None for none."""

    ca_file: Path | None = None
    auth_file: Path | None = None


@dataclass(frozen=True)
class Source:
    """Where a program comes from. One of `image`, `url` and `file` is set. `sha256`: of the program, 64 hex digits."""

    image: ImageReference | None = None
    url: str | None = None
    file: Path | None = None
    sha256: str | None = None


async def install(
    source: Source, store: Store, check: Check, now: Now, access: Access = Access(), report: Report | None = None
) -> InstalledProxy:
    """Install a proxy; it is not used yet. Raises ExclaveError."""
    if source.sha256 is not None and not _SHA256.fullmatch(source.sha256):
        raise UsageError("a sha256 of 64 hexadecimal digits was expected", "as sha256sum prints it")
    if source.url is not None and source.sha256 is None:
        raise UsageError("a URL needs a digest", "add --sha256, from a place that you trust")
    folder = store.new_folder()
    try:
        with hold_lock(store.folder / ".lock", "another installation", "wait for it to end"):
            program = folder / PROGRAM
            title = await _place(source, store, program, access, report or _silent)
            return await _adopt(title, source.sha256, store, folder, check, now)
    except BadImage as problem:
        what = source.image or source.url or source.file
        raise download_error(f"{what}: {problem}", "nothing was installed; name another source") from None
    except OSError as problem:
        hint = "free space there, and try again: what was fetched stays"
        raise HostError(Fault.DISK, f"{problem.filename or store.folder}: {problem.strerror}", hint) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _adopt(title: str, sha256: str | None, store: Store, folder: Path, check: Check, now: Now) -> InstalledProxy:
    program = folder / PROGRAM
    program.chmod(0o755)
    found = await trio.to_thread.run_sync(sha256_of, program)
    if sha256 is not None and found != sha256:
        raise BadImage(f"its sha256 is {found}, and {sha256} was expected")
    version = await check(program) or ""
    proxy = InstalledProxy(version if _VERSION.fullmatch(version) else "unknown", found, title, rfc3339(now()))
    store.add(folder, proxy)
    return proxy


async def _place(source: Source, store: Store, program: Path, access: Access, report: Report) -> str:
    """Write the program. Returns the source's name, with the digest."""
    if source.file is not None:
        await trio.to_thread.run_sync(shutil.copyfile, source.file, program)
        return str(source.file.resolve())
    async with _open_client(access) as client:
        if source.image is not None:
            password = _password(access, source.image.registry)
            return await _place_image(Registry(client, source.image, password), source.image, store, program, report)
        assert source.url is not None
        return await _place_url(client, source.url, program, report)


async def _place_url(client: httpx.AsyncClient, url: str, program: Path, report: Report) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise UsageError("a URL with https:// was expected", "for instance: --url https://files.example.com/proxy")
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()  # without secrets
    with program.open("xb") as file:
        await Origin(client, shown, url).fetch(url, file, None, LARGEST_PROGRAM, report)
    return shown


async def _place_image(registry: Registry, image: ImageReference, store: Store, program: Path, report: Report) -> str:
    architecture = ARCHITECTURES.get(platform.machine(), platform.machine())
    digest, layers = await registry.resolve(architecture)
    for layer in reversed(layers):  # what a higher layer has replaces what a lower one has
        if layer.media_type not in LAYERS:
            raise BadImage(f"its layer of type {layer.media_type[:80] or 'unknown'} cannot be read here")
        path = await _fetch_layer(registry, layer, store, report)
        if await extract(path, LAYERS[layer.media_type], PATH_IN_IMAGE, program):
            shutil.rmtree(store.folder / PARTIAL, ignore_errors=True)
            named = ImageReference(image.registry, image.repository, image.tag, digest)
            return str(named)
    raise BadImage(f"it has no file /{PATH_IN_IMAGE}")


async def _fetch_layer(registry: Registry, layer: Descriptor, store: Store, report: Report) -> Path:
    """The file of a layer, whole and with the right digest. A file that an interrupted attempt left is continued."""
    folder = store.folder / PARTIAL
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / layer.digest.partition(":")[2]
    with path.open("ab+") as file:
        if file.seek(0, 2) > layer.size:
            file.truncate(0)
        await registry.fetch_layer(layer, file, report)
        file.flush()
        found = await trio.to_thread.run_sync(_digest, file)
    if found != layer.digest:
        path.unlink()
        raise BadImage(f"a layer has other bytes than its digest states: expected {layer.digest}, found {found}")
    return path


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(1024 * 1024):
        digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


@asynccontextmanager
async def _open_client(access: Access) -> AsyncIterator[httpx.AsyncClient]:
    try:
        tls = ssl.create_default_context()
        if access.ca_file is not None:
            tls.load_verify_locations(access.ca_file)
    except (OSError, ssl.SSLError) as problem:
        raise UsageError(
            f"--ca-file {access.ca_file}: {problem.strerror or 'no certificate in it'}", "a PEM file"
        ) from None
    agent = {"User-Agent": f"exclave/{__version__}"}
    async with httpx.AsyncClient(verify=tls, trust_env=True, timeout=TIMEOUT, headers=agent) as client:
        yield client


def _password(access: Access, registry: str) -> str | None:
    if access.auth_file is None:
        return None
    try:
        return read_password(access.auth_file.read_bytes(), registry)
    except OSError as problem:
        raise UsageError(
            f"--auth-file {access.auth_file}: {problem.strerror}", "a file as docker login writes it"
        ) from None
    except ValueError as problem:
        raise UsageError(f"--auth-file {access.auth_file}: {problem}", "a file as docker login writes it") from None


def _silent(_done: int, _total: int) -> None:
    """No report of progress."""
