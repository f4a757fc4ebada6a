"""The job that systemd runs for the unit of this process: a restart and a stop send the same signal.

Without systemd, or if it does not answer in time, there is no job.
"""

from pathlib import Path

import trio

from exclave.kit.host.command import run_command

ANSWER_TIME = 2.0  # seconds for systemd to answer: a process that must stop does not wait longer

SYSTEMD = Path("/run/systemd/system")  # exists where systemd is the init system; source: sd_booted(3)

_CGROUP = Path("/proc/self/cgroup")


def find_unit(cgroups: str) -> str | None:
    """The service in the text of /proc/PID/cgroup, such as `exclave.service`; None outside of a service.

    Source: cgroups(7). With version 1, systemd's own hierarchy counts.
    """
    for line in cgroups.splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers in ("", "name=systemd"):
            services = [part for part in path.split("/") if part.endswith(".service")]
            if services:
                return services[-1]
    return None


def find_job(listed: str, unit: str) -> str | None:
    """The type of the unit's job in the output of `systemctl list-jobs`, such as `restart`; None without a job."""
    for line in listed.splitlines():
        words = line.split()
        if len(words) >= 4 and words[1] == unit:
            return words[2]
    return None


def is_booted() -> bool:
    """True if systemd runs this machine."""
    return SYSTEMD.is_dir()


async def read_own_job() -> str | None:
    """The type of the job for the unit of this process; None without one, without systemd or without an answer."""
    try:
        unit = find_unit(_CGROUP.read_text())
        if unit is None or not is_booted():
            return None
        done = await run_command(["systemctl", "list-jobs", "--no-legend", "--full", unit], timeout=ANSWER_TIME)
    except (OSError, trio.TooSlowError):
        return None
    return find_job(done.output.decode("utf-8", "replace"), unit)
