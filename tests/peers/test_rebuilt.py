"""A cluster rebuilt from nothing, with another API CA and the mesh's old anchors: one command joins a machine to it.

What it was a member of is still there here, and what it leaves is not waited for.
"""

import os
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from exclave.api.join_token import encode_token
from exclave.api.requests import MEMBERS
from exclave.cli import main as cli
from exclave.identity.storage import load_svid
from exclave.member.record import load_membership
from exclave_sandbox.stage.mesh import VM
from peers.conftest import Server, run_kubernetes
from peers.kubernetes import AVAILABLE
from support.mesh_cluster import MeshCluster

from .cluster_threads import cluster_thread_on

pytestmark = pytest.mark.parametrize("server", AVAILABLE[:1], indirect=True)

END = "-----END CERTIFICATE-----"


NO_TABLE = 'case "$*" in *list*) echo "Error: No such file or directory" >&2; exit 1;; esac'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Where a machine's folders are; nothing of it runs."""
    text = f'[paths]\nstate = "{tmp_path}/state"\nruntime = "{tmp_path}/run"\n[member]\naddress = "{VM}"\n'
    (tmp_path / "config.toml").write_text(text + '[listing]\ndrain = "0s"\n')
    return tmp_path / "config.toml"


@pytest.fixture(autouse=True)
def _apart_from_the_host(tmp_path: Path) -> None:
    """Programs that would change the host are not to be found."""
    (tmp_path / "bin").mkdir()
    for program, says in (("nft", NO_TABLE), ("ip", "echo []")):
        (tmp_path / "bin" / program).write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / "bin" / program).chmod(0o755)


def test_one_command_joins_a_machine_to_the_rebuilt_cluster_and_the_mesh_believes_it(
    server: Server, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def join(line: str, *more: str) -> int:
        environment = {**os.environ, "PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
        checked = mock.patch("exclave.cli.commands._check")  # this host is not to be a member
        with mock.patch.dict(os.environ, environment), mock.patch("os.geteuid", lambda: 0), checked:
            return cli.main(["join", line, *more, "--config", str(config)])

    with cluster_thread_on(server, tmp_path / "first", {}, rate=1.0, tidy=False) as thread:
        token = encode_token(thread.run(partial(MeshCluster.join_token, token_id="rb001")))
        assert join(token) == 0
        before = load_svid(tmp_path / "state")
        former = load_membership(tmp_path / "state")
        assert former is not None and former.member == "web-rb001-1"
    (tmp_path / "rebuilt").mkdir()
    with run_kubernetes(server.name, tmp_path / "rebuilt") as other:
        assert other.ca != server.ca
        with cluster_thread_on(other, tmp_path / "second", {}, rate=1.0, tidy=False) as thread:
            token = encode_token(thread.run(partial(MeshCluster.join_token, token_id="rb002")))
            capsys.readouterr()
            assert join(token) == 20, "it is a member, as far as it knows"
            assert "exclave join --again" in capsys.readouterr().err
            assert join(token, "--again") == 0
            told = capsys.readouterr().err
            assert told.index("joined as shop/web-rb002-1") < told.index(
                "leaving the former membership shop/web-rb001-1"
            )
            record, after = load_membership(tmp_path / "state"), load_svid(tmp_path / "state")
            assert record is not None and before is not None and after is not None
            assert (record.member, record.servers, record.ca) == ("web-rb002-1", (other.url,), other.ca)
            assert thread.run(lambda cluster: cluster.find(MEMBERS, "web-rb002-1")) is not None
            (leaf, _, above), (former_leaf, _, former_above) = (one[0].partition(END) for one in (after, before))
            assert leaf != former_leaf
            assert above == former_above, "the same issuer, below the same anchors"
