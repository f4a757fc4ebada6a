"""The sandbox's API server, in the test's own run, on a free port of 127.0.0.1.

    async with running_apiserver(tmp_path) as cluster:
        cluster.access, cluster.admin_token, cluster.directory, cluster.server
        await cluster.server.close()   # an outage: every connection closed, all objects kept
        await cluster.server.open()
        cluster.server.store           # what it holds, without HTTP

Leaving the block cancels what it started; the namespaces `default` and `kube-system` exist, others are made by tests.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from exclave.cluster.endpoint import Access
from exclave_sandbox.apiserver.main import ApiServer, open_apiserver


class RunningApiServer(NamedTuple):
    """Where it is, by which CA; an administrator's token; its folder (ca.pem, admin.token); the server itself."""

    access: Access
    admin_token: str
    directory: Path
    server: ApiServer


@asynccontextmanager
async def running_apiserver(
    directory: Path, *, now: Callable[[], float] = time.time
) -> AsyncIterator[RunningApiServer]:
    """Run one while the block runs. `now` is its wall clock (epoch seconds): token expiry, timestamps, Date."""
    async with open_apiserver("127.0.0.1", 0, directory, now=now) as server:
        yield RunningApiServer(Access((server.url,), server.ca), server.admin_token, directory, server)
