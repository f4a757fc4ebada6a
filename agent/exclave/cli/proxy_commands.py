"""`exclave proxy install|list|use|remove`: the versions of the proxy on this machine."""

import argparse
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import trio

from exclave.cli.progress import Progress
from exclave.config import Config
from exclave.errors import UsageError
from exclave.kit.formats.visible_text import with_head
from exclave.kit.host.output import print_err, print_json, print_out, shows_notes
from exclave.member.record import load_settings
from exclave.proxy.process.units import check_proxy
from exclave.proxy_install.download import download_error
from exclave.proxy_install.install import Access, Source, install
from exclave.proxy_install.reference import ImageReference, at_mirror, parse_reference
from exclave.proxy_install.store import InstalledProxy, Store

SWAPS = "an agent that runs moves traffic to it in a few seconds"
SOURCES = "one source was expected: an image, --file or --url"
DOWNLOAD_TIMEOUT = 900.0  # seconds


def install_proxy(options: argparse.Namespace, config: Config) -> int:
    """Install a proxy from its source, then use it unless the options forbid that."""
    source, access = chosen_source(options, config), chosen_access(config, options.ca_file, options.auth_file)
    store = Store(config.proxy.store, config.proxy.binary)
    proxy = _download(source, access, store, config, DOWNLOAD_TIMEOUT if options.timeout is None else options.timeout)
    is_used = not options.no_use
    if is_used:
        store.use(proxy)
    removed = store.prune()
    if options.json:
        print_json({**shown(proxy, is_used), "removed": [one.name for one in removed]}, indent=2)
        return 0
    print_err(f"installed: {proxy.name}, from {proxy.source}")
    for one in removed:
        print_err(f"removed: {one.name}")
    if is_used:
        print_err(f"in use: {proxy.name}; {SWAPS}")
    else:
        print_err(f"use it: exclave proxy use {proxy.name}")
    return 0


def install_missing_proxy(image: str, config: Config) -> None:
    """Install and use the proxy's image that a join token names, if this machine has no proxy. Raises ExclaveError."""
    if not image or config.proxy.binary.exists():
        return
    source = Source(image=_image(image, config.proxy.mirror))
    print_err(f"this machine has no proxy yet; installing {source.image}")
    store = Store(config.proxy.store, config.proxy.binary)
    proxy = _download(source, chosen_access(config), store, config, DOWNLOAD_TIMEOUT)
    store.use(proxy)
    print_err(f"installed: {proxy.name}")


def _download(source: Source, access: Access, store: Store, config: Config, timeout: float) -> InstalledProxy:
    progress = Progress(time.monotonic, is_terminal=shows_notes())
    with closing(progress):
        work = partial(_install, source, access, store, config, timeout, progress)
        return trio.run(work, strict_exception_groups=True)


async def _install(
    source: Source, access: Access, store: Store, config: Config, timeout: float, progress: Callable[[int, int], None]
) -> InstalledProxy:
    check = partial(check_proxy, config.proxy, config.paths.runtime)
    try:
        with trio.fail_after(timeout):
            return await install(source, store, check, time.time, access, progress)
    except trio.TooSlowError:
        what = source.image or source.url or source.file
        hint = "try again: it continues where it was interrupted; or allow more time with --timeout"
        raise download_error(f"{what}: not complete within {timeout:.0f} s", hint) from None


def chosen_source(options: argparse.Namespace, config: Config) -> Source:
    """The source that a command line names, else the image that this member's cluster runs. Raises UsageError."""
    named = sum(one is not None for one in (options.image, options.file, options.url))
    image = options.image if named else published_image(config.paths.state)
    if named > 1 or (not named and not image):
        raise UsageError(SOURCES, "for instance: exclave proxy install cr.l5d.io/linkerd/proxy:edge-26.8.3")
    if image is None:
        return Source(url=options.url, file=options.file, sha256=options.sha256)
    return Source(image=_image(image, options.mirror or config.proxy.mirror), sha256=options.sha256)


def published_image(state: Path) -> str:
    """The image that this member's cluster runs; "" if that is unknown, or if this machine is no member."""
    settings = load_settings(state)
    return settings[0].linkerd.proxy_reference if settings is not None else ""


def _image(text: str, mirror: str | None) -> ImageReference:
    image = parse_reference(text)
    return image if mirror is None else at_mirror(image, mirror)


def chosen_access(config: Config, ca_file: Path | None = None, auth_file: Path | None = None) -> Access:
    """The way to a registry: the options of a command, else the configuration."""
    return Access(ca_file or config.proxy.registry_ca_file, auth_file or config.proxy.registry_auth_file)


def list_proxies(options: argparse.Namespace, config: Config) -> int:
    """Print the installed proxies."""
    store = Store(config.proxy.store, config.proxy.binary)
    used, installed = store.used(), store.list()
    if options.json:
        print_json([shown(one, one == used) for one in installed], indent=2)
        return 0
    if not installed:
        print_err("no proxy is installed here: exclave proxy install")
    width = max((len(one.name) for one in installed), default=0)
    for one in installed:
        mark = "in use" if one == used else ""
        print_out(with_head(f"{one.name:{width}}  {mark:6}  ", f"{one.installed_at}  {one.source}"))
    if used is None and config.proxy.binary.exists():
        print_err(f"in use: {config.proxy.binary}, which exclave proxy has not installed")
    return 0


def use_proxy(options: argparse.Namespace, config: Config) -> int:
    """Make another installed proxy the one in use."""
    store = Store(config.proxy.store, config.proxy.binary)
    proxy = store.find(options.name)
    store.use(proxy)
    return _print_result(options, proxy, f"in use: {proxy.name}; {SWAPS}")


def remove_proxy(options: argparse.Namespace, config: Config) -> int:
    """Remove an installed proxy that is not in use."""
    store = Store(config.proxy.store, config.proxy.binary)
    proxy = store.find(options.name)
    store.remove(proxy)
    return _print_result(options, proxy, f"removed: {proxy.name}")


def shown(proxy: InstalledProxy, is_used: bool) -> dict[str, Any]:
    """A proxy as `--json` prints it."""
    found = asdict(proxy)
    found["installedAt"] = found.pop("installed_at")
    return {"name": proxy.name, **found, "used": is_used}


def _print_result(options: argparse.Namespace, proxy: InstalledProxy, text: str) -> int:
    if options.json:
        print_json({"name": proxy.name})
    else:
        print_err(text)
    return 0
