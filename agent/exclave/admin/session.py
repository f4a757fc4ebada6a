"""The context of one admin command: kubectl, the namespace, the clock and the output.

Only results go to standard output, so that a command works in a pipe; notes and warnings go to standard error. A wait
is announced before it begins.
"""

import sys
import time
from collections.abc import Callable, Sequence

from exclave.admin.kubectl import Kubectl
from exclave.admin.reconcile import Change
from exclave.admin.tables import Listing, render
from exclave.errors import ExclaveError, Fault

WAIT = 60.0
"""Seconds to wait for the controller."""

POLL_INTERVAL = 1.0


class Session:
    """The context of one command."""

    def __init__(self, kubectl: Kubectl, namespace: str | None = None) -> None:
        self.kubectl = kubectl
        self._namespace = namespace

    @property
    def namespace(self) -> str:
        """The namespace of `-n`, or the context's."""
        if self._namespace is None:
            self._namespace = self.kubectl.namespace()
        return self._namespace

    def now(self) -> float:
        """Epoch seconds."""
        return time.time()

    def show(self, listing: Listing, form: str | None, nothing: str) -> None:
        """Print a listing; of an empty table the note `nothing`."""
        text = render(listing, form)
        if text:
            print(text)
        elif form in (None, "wide"):
            self.note(nothing)

    def note(self, *lines: str) -> None:
        """Print notes to standard error."""
        print(*lines, sep="\n", file=sys.stderr)

    def warn(self, warnings: Sequence[str]) -> None:
        """Print warnings to standard error."""
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)

    def apply(self, change: Change) -> Change:
        """Apply a change. Raises ExclaveError if the existing object blocks it."""
        manifest = change.manifest
        name = manifest.name
        if change.verb == "blocked":
            raise ExclaveError(
                Fault.USAGE,
                str(change),
                f"check whether it is still needed; if not: kubectl delete {manifest.resource.plural} {name} "
                f"-n {manifest.namespace}",
            )
        if change.verb == "create":
            self.kubectl.create(manifest.resource, manifest.namespace, manifest.body)
        elif change.verb == "patch":
            self.kubectl.patch(manifest.resource, manifest.namespace, name, change.patch)
        return change

    def wait_until(self, is_done: Callable[[], bool], what: str, seconds: float = WAIT) -> bool:
        """Poll until `is_done`; False if it takes too long. `what` completes the sentence "waiting for …"."""
        deadline = time.monotonic() + seconds
        if is_done():
            return True
        self.note(f"waiting for {what}, {seconds:.0f}s at most")
        while time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL)
            if is_done():
                return True
        return False
