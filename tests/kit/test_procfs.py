"""The kernel's word on real processes."""

import os
import subprocess
import sys

from exclave.kit.procfs import open_pidfd, read_boot_id, view_process


def test_the_kernels_view_of_this_very_process() -> None:
    view = view_process(os.getpid())
    assert view is not None
    assert view.executable == os.path.realpath(sys.executable)
    assert view.start_ticks > 0
    assert view_process(2**22 - 1) is None


def test_a_process_is_held_until_it_is_let_go() -> None:
    started = subprocess.Popen(["/usr/bin/sleep", "600"])
    pidfd = open_pidfd(started.pid)
    assert pidfd is not None
    os.close(pidfd)
    started.kill()
    started.wait()
    assert open_pidfd(started.pid) is None


def test_the_boot_is_named_by_the_kernel() -> None:
    assert len(read_boot_id()) == 36
