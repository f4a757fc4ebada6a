"""The kernel tells who connected; only the proxy's user is served."""

import os
import socket
from pathlib import Path

import pytest

from exclave.workload_api.peer import Peer, check_peer, peer_of
from exclave.workload_api.wire import RpcStatus, StatusCode

PROXY = 64999


def test_it_is_the_process_that_connected_not_the_one_that_listens(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        child = os.fork()
        if child == 0:  # the process that connects, and stays until it was looked at
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "s"))
                client.recv(1)
            os._exit(0)
        connection, _ = listener.accept()
        with connection:
            assert peer_of(connection) == Peer(child, os.getuid(), os.getgid())
        os.waitpid(child, 0)


def test_another_user_cannot_lie_about_itself(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_of(ours).uid == os.getuid()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(b"\0exclave-peer-%d" % os.getpid())
        listener.listen()
        child = os.fork()
        if child == 0:
            os.setgid(PROXY)
            os.setuid(PROXY)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(b"\0exclave-peer-%d" % os.getppid())
                client.recv(1)
            os._exit(0)
        connection, _ = listener.accept()
        with connection:
            assert peer_of(connection) == Peer(child, PROXY, PROXY)
        os.waitpid(child, 0)


@pytest.mark.parametrize(
    ("uid", "allowed", "refusal"),
    [
        pytest.param(PROXY, {PROXY}, None, id="the proxy gets the key"),
        pytest.param(PROXY, {PROXY, 1000}, None, id="one of several users"),
        pytest.param(
            0,
            {PROXY},
            RpcStatus(StatusCode.PERMISSION_DENIED, "user 0 is not the proxy's, and only the proxy is served"),
            id="not even root, which could take it elsewhere",
        ),
        pytest.param(
            1000,
            set(),
            RpcStatus(StatusCode.PERMISSION_DENIED, "user 1000 is not the proxy's, and only the proxy is served"),
            id="nobody if nobody is named",
        ),
    ],
)
def test_judgement(uid: int, allowed: set[int], refusal: RpcStatus | None) -> None:
    assert check_peer(Peer(77, uid, PROXY), frozenset(allowed)) == refusal
