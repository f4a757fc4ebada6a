"""A command's side of the control socket, against sockets that are there, stale, silent, closed to us or absent."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exclave.control.client import NoAgent, query_agent, send_command
from exclave.errors import Fault, HostError
from support.needs import need

Answer = Callable[[socket.socket], None]


@contextmanager
def agent(runtime: Path, answer: Answer) -> Iterator[None]:
    """Somebody who takes one connection, reads its line, and answers it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(runtime / "control.sock"))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                assert lines.readline() == b'{"command": "status"}\n'
                answer(connection)

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        yield
        server.join()


def saying(*pieces: bytes) -> Answer:
    return lambda connection: connection.sendall(b"".join(pieces))


def test_each_line_is_an_object(tmp_path: Path) -> None:
    with agent(tmp_path, saying(b'{"state": "starting"}\n[1]\n{"state": ', b'"ready"}\n')):
        assert list(send_command(tmp_path, "status")) == [{"state": "starting"}, {"state": "ready"}]


def test_one_answer_is_the_first(tmp_path: Path) -> None:
    with agent(tmp_path, saying(b'{"state": "starting"}\n{"state": "ready"}\n')):
        assert query_agent(tmp_path, "status") == {"state": "starting"}


@pytest.mark.parametrize("sent", [b"", b'{"sta', b"[1]\n"], ids=["nothing", "half a line", "no object"])
def test_an_agent_that_ends_meanwhile_is_no_agent(tmp_path: Path, sent: bytes) -> None:
    with agent(tmp_path, saying(sent)), pytest.raises(NoAgent):
        query_agent(tmp_path, "status")


def test_an_agent_that_does_not_answer_in_time_is_no_agent(tmp_path: Path) -> None:
    timed_out = threading.Event()

    def stay_silent(_: socket.socket) -> None:
        timed_out.wait()

    with agent(tmp_path, stay_silent):
        with pytest.raises(NoAgent):
            query_agent(tmp_path, "status", timeout=0.001)
        timed_out.set()


def test_no_socket_means_no_agent(tmp_path: Path) -> None:
    for runtime in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NoAgent):
            query_agent(runtime, "status")


def test_a_socket_that_a_crash_has_left_means_no_agent(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "control.sock"))
    with pytest.raises(NoAgent):
        query_agent(tmp_path, "status")


def test_without_permission_it_is_an_error() -> None:
    need(os.geteuid() == 0, "only root can become somebody else")
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        runtime, path = Path(folder), Path(folder) / "control.sock"
        runtime.chmod(0o755)
        listener.bind(str(path))
        listener.listen()
        path.chmod(0o600)
        os.seteuid(65534)
        try:
            with pytest.raises(HostError) as caught:
                query_agent(runtime, "status")
        finally:
            os.seteuid(0)
    assert caught.value.fault is Fault.NO_PRIVILEGE
    assert caught.value.message == f"the agent's socket {path} is for root only"
    assert caught.value.hint == "run this command as root"


def test_status_loads_neither_an_event_loop_nor_tls() -> None:
    """Scripts ask for it often."""
    program = "import sys; from exclave.cli import main; main.main(sys.argv[1:]); print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    command = [sys.executable, "-c", program, "status", "--config", "/nowhere"]
    loaded = set(subprocess.run(command, env=environment, capture_output=True, text=True).stdout.split())
    assert "exclave.cli.status_text" in loaded
    assert not loaded & {"trio", "httpx", "ssl", "cryptography"}
