"""rustls-webpki, which linkerd2-proxy has, and OpenSSL judge our table of issuers, and what we would sign with them.

Of what we accept, the chain is judged that members get; of what we refuse, a leaf with everything in the Secret.
"""

import subprocess
from pathlib import Path

import pytest

from exclave.api.csr import make_csr
from exclave.api.issuer import Issuer, has_ring, make_leaf, read_issuer
from exclave.api.settings import LinkerdSettings
from exclave.controller.policy.sign import sign
from exclave.identity.svid import check_svid
from exclave.kit.formats.x509 import pem_of, read_certificates
from peers.kubernetes import cache
from support.certificates import IDENTITY, KEY, NOW
from support.issuers import ROWS, Row

JUDGE = cache() / "judge"


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """rustls-webpki's verdict on each row."""
    build = ".venv/bin/python tests/peers/building.py"
    if not JUDGE.exists():  # Rust may be missing also where Go and all servers are
        pytest.skip(f"{JUDGE} is not there, which has rustls-webpki; to build it, with Rust: {build}")
    folder, lines = tmp_path_factory.mktemp("issuers"), []
    for number, row in enumerate(ROWS.values()):
        chain, anchors = folder / f"{number}.chain", folder / f"{number}.anchors"
        chain.write_text(chain_of(row))
        anchors.write_bytes(row.anchors.encode())
        lines.append(f"{chain}\t{anchors}\t{NOW}\t{'ring' if has_ring(row.version) else 'aws-lc'}\n")
    done = subprocess.run([JUDGE], input="".join(lines), capture_output=True, text=True, check=True)
    return dict(zip(ROWS, done.stdout.splitlines(), strict=True))


def chain_of(row: Row) -> str:
    """The chain that a member gets, or that it would get without our check."""
    if row.fault:
        leaf = make_leaf(Issuer((row.issuer,), row.key), KEY.public_key(), "web", IDENTITY, NOW - 1, NOW + 60, serial=7)
        return pem_of(leaf) + row.certificates
    linkerd = LinkerdSettings("linkerd", "cluster.local", "cluster.local", (), row.version, "deny", "")
    issuer = read_issuer(row.secret, row.anchors, NOW, linkerd)
    return sign(make_csr(KEY, "web"), "web", IDENTITY, 60.0, issuer, now=NOW, serial=7).chain


@pytest.mark.parametrize("name", ROWS)
def test_linkerds_proxies_decide_as_we_do(name: str, verdicts: dict[str, str]) -> None:
    row, is_accepted = ROWS[name], verdicts[name] == "accepted"
    assert is_accepted == (not row.fault or bool(row.stricter)), verdicts[name]


@pytest.mark.parametrize("name", ROWS)
def test_openssl_decides_as_we_do_but_where_the_row_states_why_not(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    leaf, *_ = read_certificates(chain_of(row))
    (tmp_path / "leaf").write_text(pem_of(leaf))
    (tmp_path / "rest").write_text(chain_of(row).removeprefix(pem_of(leaf)))
    (tmp_path / "anchors").write_bytes(row.anchors.encode())
    options = ["-attime", str(NOW), "-partial_chain", "-no-CAfile", "-no-CApath", "-no-CAstore"]
    files = ["-trusted", "anchors", "-untrusted", "rest"]
    done = [
        subprocess.run(
            ["openssl", "verify", *options, *files, "-purpose", purpose, "leaf"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        for purpose in ("sslserver", "sslclient")
    ]
    is_accepted = all(one.returncode == 0 for one in done)
    assert is_accepted == ((not row.fault) ^ bool(row.openssl)), [one.stderr for one in done]


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if not row.fault])
def test_an_agent_accepts_what_we_sign(name: str) -> None:
    row = ROWS[name]
    assert check_svid(chain_of(row), KEY, row.anchors, IDENTITY, NOW).spiffe_id == IDENTITY.spiffe_id
