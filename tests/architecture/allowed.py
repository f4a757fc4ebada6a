"""What the architecture rules let pass, each with its reason."""

BLOCKING = {
    "exclave.config": "reads config.toml once, before trio runs",
    "exclave.kit.atomic": "writes small files with fsync; a thread would let a crash fall between two steps",
    "exclave.kit.notify": "one datagram to a local socket, which never waits",
    "exclave.sandbox.pki": "makes the demo's and the tests' certificates",
}
"""Modules without `async def` that touch the world all the same."""

ROOTS = {
    "exclave.daemon",
    "exclave.cli",
    "exclave.join.steps",
    "exclave.controller.run",
    "exclave.sandbox.scenario",
}
"""Composition roots: they alone open doors, and may import any folder."""

PURE_LIBRARIES = {
    "__future__", "base64", "binascii", "bisect", "collections", "contextlib", "copy", "cryptography", "dataclasses",
    "datetime", "dns", "email", "enum", "functools", "h11", "h2", "hashlib", "heapq", "hmac", "hpack", "http",
    "hyperframe", "ipaddress", "itertools", "json", "jwcrypto", "logging", "math", "operator", "pathlib", "re", "ssl",
    "string", "struct", "sys", "textwrap", "types", "typing", "urllib", "yaml", "zlib",
}  # fmt: skip
"""Libraries that a pure module may import: they compute, as far as it uses them."""

WITHOUT_TEST_FILE = {
    "exclave.__main__": "one line that calls cli.main, which the command's tests run",
}
"""Modules without a test file of their own name."""
