"""Serves an image with the program of a file, at port 5000 of this machine: `registry.py FILE`."""

import platform
import signal
import sys
from pathlib import Path

sys.path[:0] = ["/usr/lib/exclave", "/opt/registry"]

from exclave.proxy_install.manifest import ARCHITECTURES  # noqa: E402
from support.registry import proxy_image, run_registry  # noqa: E402

with run_registry(5000) as registry:
    proxy_image(registry, Path(sys.argv[1]).read_bytes(), ARCHITECTURES[platform.machine()])
    signal.pause()
