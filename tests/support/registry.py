"""Images of a proxy, and a registry on loopback that can be broken, slow or dishonest."""

import gzip
import hashlib
import io
import json
import re
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from exclave.proxy_install.manifest import INDEXES, LAYERS, MANIFESTS

PATH = "usr/lib/linkerd/linkerd2-proxy"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
GZIP_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def entry(name: str, kind: bytes = tarfile.REGTYPE, **more: Any) -> tarfile.TarInfo:
    """An entry of an archive."""
    found = tarfile.TarInfo(name)
    found.type = kind
    for key, value in more.items():
        setattr(found, key, value)
    return found


def layer(*entries: tuple[tarfile.TarInfo, bytes], compressed: bool = True) -> bytes:
    """An archive with these entries."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for one, content in entries:
            one.size = len(content)
            archive.addfile(one, io.BytesIO(content))
    return gzip.compress(made.getvalue(), mtime=0) if compressed else made.getvalue()


def layer_with(program: bytes, path: str = PATH) -> bytes:
    """A layer with a program."""
    return layer((entry("usr", tarfile.DIRTYPE), b""), (entry(path, mode=0o755), program))


@dataclass
class Answer:
    """An answer of the registry. `cut`: the connection ends after so many bytes of the body."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None


Behaviour = Callable[["Registry", BaseHTTPRequestHandler, Answer], Answer]
"""Replaces an answer by another one."""


@dataclass
class Registry:
    """A registry on loopback. `documents` and `blobs`: by name in URLs; `requests`: paths, each with its range."""

    documents: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    behave: Behaviour = lambda _registry, _request, answer: answer
    host: str = ""

    def image(self, name: str = "linkerd/proxy:v1") -> str:
        """The name of an image here."""
        return f"{self.host}/{name}"

    def add_blob(self, content: bytes) -> str:
        """Store a blob. Returns its digest."""
        digest = f"sha256:{sha256(content)}"
        self.blobs[digest] = content
        return digest

    def add_document(self, document: Any, *names: str) -> str:
        """Store an index or a manifest under its digest and under names. Returns the digest."""
        content = json.dumps(document).encode()
        digest = f"sha256:{sha256(content)}"
        for name in (digest, *names):
            self.documents[name] = (document["mediaType"], content)
        return digest

    def add_image(
        self, *layers: bytes, architecture: str = "amd64", media_type: str = GZIP_LAYER, config: str | None = None
    ) -> dict[str, Any]:
        """Store an image. Returns its entry in an index. `config`: the architecture in its configuration."""
        description = json.dumps({"architecture": config or architecture, "os": "linux"}).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFESTS[0],
            "config": {"mediaType": CONFIG_TYPE, "digest": self.add_blob(description), "size": len(description)},
            "layers": [{"mediaType": media_type, "digest": self.add_blob(one), "size": len(one)} for one in layers],
        }
        digest = self.add_document(manifest)
        size, platform = len(self.documents[digest][1]), {"os": "linux", "architecture": architecture}
        return {"mediaType": MANIFESTS[0], "digest": digest, "size": size, "platform": platform}

    def add_index(self, *entries: dict[str, Any], tag: str = "v1") -> str:
        """Store an index under a tag. Returns its digest."""
        return self.add_document({"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": list(entries)}, tag)


def proxy_image(registry: Registry, program: bytes, architecture: str = "amd64") -> str:
    """Store an image for two architectures with a proxy. Returns the index' digest."""
    base = layer((entry("etc/passwd"), b"nobody"))
    other = {"amd64": "arm64", "arm64": "amd64"}[architecture]
    return registry.add_index(
        registry.add_image(base, layer_with(b"for another machine"), architecture=other),
        registry.add_image(base, layer_with(program), architecture=architecture),
    )


@contextmanager
def run_registry(port: int = 0) -> Iterator[Registry]:
    """A registry that answers while open. `port`: 0 for any."""
    registry = Registry()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            registry.requests.append((self.path, self.headers.get("Range", "")))
            registry.headers.append(dict(self.headers))
            answer = registry.behave(registry, self, found(registry, self.path, self.headers.get("Range")))
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body if answer.cut is None else answer.body[: answer.cut])
            if answer.cut is not None:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    registry.host = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def found(registry: Registry, path: str, wanted: str | None) -> Answer:
    """The honest answer to a request."""
    kind, _, name = path.partition("?")[0].removeprefix("/v2/linkerd/proxy/").partition("/")
    if kind == "manifests" and name in registry.documents:
        media_type, content = registry.documents[name]
        return Answer(200, content, {"Content-Type": media_type})
    if kind == "blobs" and name in registry.blobs:
        content = registry.blobs[name]
        begin = int(match[1]) if (match := re.fullmatch(r"bytes=(\d+)-", wanted or "")) else 0
        if begin:
            span = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            return Answer(206, content[begin:], {"Content-Range": span})
        return Answer(200, content)
    return Answer(404, b"{}")


assert GZIP_LAYER in LAYERS
