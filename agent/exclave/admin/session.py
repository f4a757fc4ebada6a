"""What an admin's command works with: kubectl, the namespace, the clock, and where words go.

Rules: results go to standard output, and nothing else does, so that a command can stand in a pipe; notes and warnings
go to standard error. A wait says for what, before it begins.
"""

import sys
import time
from collections.abc import Callable, Sequence

from exclave.admin.kubectl import Kubectl
from exclave.admin.reconcile import Change
from exclave.admin.tables import Listing, render
from exclave.errors import ExclaveError, Fault

WAIT = 60.0
"""Seconds that a command waits for the controller to finish something."""

POLL_INTERVAL = 1.0


class Session:
    """One command's place of work."""

    def __init__(self, kubectl: Kubectl, namespace: str | None = None) -> None:
        self.kubectl = kubectl
        self._namespace = namespace

    @property
    def namespace(self) -> str:
        """The namespace told, or the context's."""
        if self._namespace is None:
            self._namespace = self.kubectl.namespace()
        return self._namespace

    def now(self) -> float:
        """Epoch seconds."""
        return time.time()

    def show(self, listing: Listing, form: str | None, nothing: str) -> None:
        """Print what was found; `nothing` is said of an empty table."""
        text = render(listing, form)
        if text:
            print(text)
        elif form in (None, "wide"):
            self.note(nothing)

    def note(self, *lines: str) -> None:
        """Say something beside the result."""
        print(*lines, sep="\n", file=sys.stderr)

    def warn(self, warnings: Sequence[str]) -> None:
        """Say what may go wrong."""
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)

    def apply(self, step: Change) -> Change:
        """Do what is still to be done for one object. Raises ExclaveError where another is in its way."""
        manifest = step.manifest
        name = manifest.name
        if step.verb == "blocked":
            raise ExclaveError(
                Fault.USAGE,
                str(step),
                f"look at it, and delete it if nobody needs it: kubectl delete {manifest.resource.plural} {name} "
                f"-n {manifest.namespace}",
            )
        if step.verb == "create":
            self.kubectl.create(manifest.resource, manifest.namespace, manifest.body)
        elif step.verb == "patch":
            self.kubectl.patch(manifest.resource, manifest.namespace, name, step.patch)
        return step

    def wait_until(self, is_so: Callable[[], bool], what: str, seconds: float = WAIT) -> bool:
        """Look again and again until it is so; False if it is not so in time."""
        deadline = time.monotonic() + seconds
        if is_so():
            return True
        self.note(f"waiting for {what}, {seconds:.0f}s at most")
        while time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL)
            if is_so():
                return True
        return False
