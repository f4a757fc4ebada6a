"""Finds out whether machines can boot here: `python -m vm.probe PACKAGE`. If not, it prints why, and ends with 3.

It runs where the rows run: as root, in namespaces of its own.
"""

import sys
import tempfile
import time
from pathlib import Path

import trio

from exclave_sandbox.stage.namespaces import open_network
from vm.machine import open_machine
from vm.roots import DEBIANS, cache_folder, layers_of

SLOW = 4.0  # seconds to boot, which takes 1.5 on two free cores; where it takes longer, the rows take too long
WHOLE = 120.0  # seconds for the whole probe


async def boot(package: Path, folder: Path) -> float:
    """Boot a machine that is connected to our network; the seconds until systemd has started everything."""
    layers = layers_of(DEBIANS[0], package, cache_folder())
    with trio.fail_after(WHOLE):
        async with open_network() as network:
            await network.join("10.77.0.1/24")
            paths = [layers.archives, layers.system]
            async with open_machine("probe", "10.77.0.20", paths, folder, network.switch) as machine:
                began = time.monotonic()
                await machine.boot()
                seconds = time.monotonic() - began
                await machine.shell("ip route get 10.77.0.1")
                return seconds


def main(package: str) -> int:
    """Run from the command line; the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            seconds = trio.run(boot, Path(package), Path(folder))
        except Exception as problem:  # whatever it is, the rows cannot run here
            text = " ".join(str(problem).split()) or type(problem).__name__
            print(f"no machine can boot: {text[:1000]}")
            return 3
    if seconds > SLOW:
        print(f"a machine takes {seconds:.0f} s to boot here, more than {SLOW:.0f} s")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
