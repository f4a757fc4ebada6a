"""systemctl and journalctl, as far as the agent uses them, for machines without systemd.

What it prints is what systemd 252 printed: see `tests/proxy/process/golden/unit_life.jsonl`. The environment variable
FAKE_SYSTEMD names a folder with `units.json`, the installed units; the state of each unit is a file there.
EnvironmentFiles are in FAKE_RUNTIME. As with `After=` in exclave.service, a unit that has ended is not forgotten.
"""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FOLDER, RUNTIME = Path(os.environ["FAKE_SYSTEMD"]), Path(os.environ["FAKE_RUNTIME"])
SETTINGS: dict[str, Any] = json.loads((FOLDER / "units.json").read_text())
NEVER = {"ActiveState": "inactive", "MainPID": 0, "InvocationID": "", "ExecMainCode": 0, "ExecMainStatus": 0}
NEVER["Result"] = "success"
CHECK = "exclave-proxy@check.service"
UNITS = re.compile(r"exclave-proxy@(a|b|check)\.service")


def state_of(unit: str) -> dict[str, Any]:
    path = FOLDER / unit
    found = json.loads(path.read_text()) if path.exists() else NEVER
    if SETTINGS["installed"] and UNITS.fullmatch(unit):
        return {"LoadState": "loaded", "User": SETTINGS["user"], "MemoryMax": SETTINGS["memory_max"], **found}
    return {"LoadState": "not-found", "User": "", "MemoryMax": "infinity", **found}


def write(unit: str, state: dict[str, Any]) -> None:
    temporary = FOLDER / f".{unit}.{os.getpid()}"
    temporary.write_text(json.dumps(state))
    temporary.replace(FOLDER / unit)


def parse_environment(text: str) -> dict[str, str]:
    found = re.findall(r'^(\w+)="((?:[^"\\]|\\.)*)"$', text, re.MULTILINE | re.DOTALL)
    return {name: re.sub(r'\\(["\\`$])', r"\1", value) for name, value in found}


def show(unit: str, properties: str) -> int:
    state = state_of(unit)
    print("\n".join(f"{name}={state[name]}" for name in properties.split(",")))
    return 0


def restart(unit: str) -> int:
    if state_of(unit)["LoadState"] != "loaded":
        print(f"Failed to restart {unit}: Unit {unit} not found.", file=sys.stderr)
        return 5
    stop([unit])
    path = RUNTIME / unit.replace("exclave-", "").replace("@", "-").replace(".service", ".env")
    invocation = secrets.token_hex(16)
    if not path.exists():
        write(unit, {**NEVER, "ActiveState": "failed", "InvocationID": invocation, "Result": "resources"})
        print(
            f"Job for {unit} failed because of unavailable resources or another system error.\n"
            f'See "systemctl status {unit}" and "journalctl -xeu {unit}" for details.',
            file=sys.stderr,
        )
        return 1
    started, told = os.pipe()
    if os.fork() == 0:
        os.setsid()
        supervise(unit, invocation, parse_environment(path.read_text()), told)
        os._exit(0)
    os.close(told)
    os.read(started, 1)  # until its program runs
    return 0


def supervise(unit: str, invocation: str, environment: dict[str, str], told: int) -> None:
    with (FOLDER / f"{invocation}.log").open("ab") as output, open(os.devnull, "r+b") as nothing:
        process = subprocess.Popen(
            ["/bin/sh", "-c", 'exec "$EXCLAVE_PROXY"'],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
            stdin=nothing,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
        )
    running = {**NEVER, "ActiveState": "active", "MainPID": process.pid, "InvocationID": invocation}
    write(unit, running)
    for standard in range(3):
        os.close(standard)
    os.close(told)
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    code, status = ended.si_code, ended.si_status
    good = (0, 64) if unit == CHECK else (0,)  # SuccessExitStatus
    is_clean = (code == os.CLD_EXITED and status in good) or (code == os.CLD_KILLED and status == signal.SIGTERM)
    result = "success" if is_clean else {1: "exit-code", 2: "signal", 3: "core-dump"}[code]
    if (FOLDER / "oom").exists():
        result = "oom-kill"
    active = "inactive" if is_clean else "failed"
    if is_clean and code == os.CLD_EXITED and unit == CHECK:
        active = "active"  # RemainAfterExit
    if state_of(unit)["InvocationID"] == invocation:
        end = {"ActiveState": active, "ExecMainCode": code, "ExecMainStatus": status, "Result": result}
        write(unit, {**running, **end, "MainPID": 0})
    process.wait()


def wait_until_stopped(unit: str) -> None:
    while state_of(unit)["ActiveState"] == "active":
        time.sleep(0.01)


def stop(units: list[str]) -> int:
    for unit in units:
        if (pid := state_of(unit)["MainPID"]) > 0:
            os.kill(pid, signal.SIGTERM)
            wait_until_stopped(unit)
        elif state_of(unit)["ActiveState"] == "active":
            write(unit, NEVER)
    return 0


def kill(unit: str, number: str) -> int:
    pid = state_of(unit)["MainPID"]
    if pid == 0:
        print(f"Failed to kill unit {unit}: No main process to kill", file=sys.stderr)
        return 1
    os.kill(pid, signal.Signals[number])
    return 0


def reset_failed(units: list[str]) -> int:
    for unit in units:
        if state_of(unit)["ActiveState"] == "failed":
            write(unit, NEVER)
    return 0


def read_journal(invocation: str, lines: int) -> int:
    path = FOLDER / f"{invocation}.log"
    text = path.read_text() if path.exists() else ""
    print("\n".join(text.splitlines()[-lines:]))
    return 0


def main(words: list[str]) -> int:
    (FOLDER / "commands").open("a").write(f"{' '.join(words)}\n")
    options = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
    command, *units = [word for word in words if not word.startswith("--")] or ["sync"]
    if command == "sync":
        return 0
    if command.startswith("_SYSTEMD_INVOCATION_ID="):
        return read_journal(command.partition("=")[2], int(options["lines"]))
    if command == "show":
        return show(units[0], options["property"])
    if command == "kill":
        return kill(units[0], options["signal"])
    return {"restart": lambda: restart(units[0]), "stop": lambda: stop(units)}.get(
        command, lambda: reset_failed(units)
    )()


sys.exit(main(sys.argv[1:]))
