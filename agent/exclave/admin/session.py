"""The context of one admin command: kubectl, the namespace, the clock and the output.

Only results go to standard output, for use in pipes; notes and warnings go to standard error.
"""

import argparse
import time
from collections.abc import Callable, Sequence

from exclave.admin.kubectl import Kubectl, Objects
from exclave.admin.objects import Change
from exclave.admin.tables import Listing, render
from exclave.api.requests import Object, Resource
from exclave.errors import UsageError
from exclave.kit.host.output import print_err, print_out

WAIT = 60.0  # seconds to wait for the controller

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

    @property
    def chosen_namespace(self) -> str | None:
        """The namespace of `-n`; None without one, for commands whose default is all namespaces."""
        return self._namespace

    def now(self) -> float:
        """Epoch seconds."""
        return time.time()

    # Output.

    def note(self, *lines: str) -> None:
        """Print notes to standard error."""
        print_err(*lines)

    def warn(self, warnings: Sequence[str]) -> None:
        """Print warnings to standard error."""
        print_err(*(f"warning: {warning}" for warning in warnings))

    def show(self, listing: Listing, form: str | None, nothing: str) -> None:
        """Print a listing; for an empty table, print the note `nothing`."""
        text = render(listing, form)
        if text:
            print_out(text)
        elif form in (None, "wide"):
            self.note(nothing)

    def show_list(self, listing: Listing, options: argparse.Namespace, what: str) -> None:
        """Print the objects of a `list` command. Without `-A`, the first column, NAMESPACE, is left out."""
        where = "any namespace" if options.all_namespaces else f"namespace {self.namespace}"
        shown = listing if options.all_namespaces else listing.without_first_column()
        self.show(shown, options.output, f"no {what} in {where}")

    def show_object(self, resource: Resource, found: Object, form: str | None) -> bool:
        """Print a named object, if `-o` requests another form than a description."""
        if form in (None, "wide"):
            return False
        self.show(Listing(resource, [found], single=True), form, "")
        return True

    # Objects.

    def list(self, resource: Resource, options: argparse.Namespace) -> Objects:
        """The objects of a kind in the namespace, or with `-A` in all."""
        return self.kubectl.list(resource, None if options.all_namespaces else self.namespace)

    def find(self, resource: Resource, subject: str, name: str) -> Object:
        """The group or member of this name. Raises UsageError if there is none."""
        found = self.kubectl.get(resource, self.namespace, name)
        if found is None:
            raise self.missing_error(subject, name)
        return found

    def missing_error(self, subject: str, name: str) -> UsageError:
        """The error for a name without an object."""
        return UsageError(
            f"there is no {subject} {name} in namespace {self.namespace}",
            f"list them: kubectl exclave {subject} list -A",
        )

    def delete(self, resource: Resource, namespace: str | None, name: str) -> None:
        """Delete an object, and print its name if it existed."""
        if self.kubectl.delete(resource, namespace, name):
            print_out(f"{resource.kind} {name}{f' in {namespace}' if namespace else ''} deleted")

    def apply(self, change: Change) -> Change:
        """Apply a change. Raises UsageError if the existing object blocks it."""
        manifest = change.manifest
        if change.verb == "blocked":
            raise UsageError(
                str(change),
                f"check whether it is still needed; if not: kubectl delete {manifest.resource.plural} {manifest.name} "
                f"-n {manifest.namespace}",
            )
        if change.verb == "create":
            self.kubectl.create(manifest.resource, manifest.namespace, manifest.body)
        elif change.verb == "patch":
            self.kubectl.patch(*manifest.key, change.patch)
        return change

    def wait_until(self, is_done: Callable[[], bool], what: str, seconds: float = WAIT) -> bool:
        """Poll until `is_done`; False after `seconds`. `what` completes the sentence "waiting for …"."""
        deadline = time.monotonic() + seconds
        if is_done():
            return True
        self.note(f"waiting for {what}, {seconds:.0f}s at most")
        while time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL)
            if is_done():
                return True
        return False
