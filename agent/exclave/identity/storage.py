"""Key and certificate on disk. Blocking: small files, written whole.

`svid.json` holds key and chain together, so that they always belong to each other, with the times that were decided
when it came, and names the last few keys that this machine has had. `next.key` is the key of the CSR under way: the
controller signs a CSR once, so a restart must find its key again. Both are readable by root only.
"""

import json
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.api.csr import key_sha256
from exclave.kit.host.atomic import remove, write_atomic
from exclave.milestones import Leaving, Renewing, tell

SVID = "svid.json"
NEXT_KEY = "next.key"

RECORDED_KEYS = 8
"""Own keys that are remembered by name: more than the certificates that a Member's status tells of."""


def generate_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key, the one kind that the whole mesh accepts."""
    return ec.generate_private_key(ec.SECP256R1())


def store_next_key(state: Path, key: ec.EllipticCurvePrivateKey, csr: str) -> None:
    """Keep the key of a CSR before anybody sees the CSR. Raises HostError if the disk refuses."""
    write_atomic(state / NEXT_KEY, json.dumps({"key": _key_text(key), "csr": csr}).encode())


def load_next_key(state: Path) -> tuple[ec.EllipticCurvePrivateKey, str] | None:
    """Key and CSR that are under way; None if there are none that can be read."""
    try:
        tree = json.loads((state / NEXT_KEY).read_bytes())
        return _read_key(tree["key"]), str(tree["csr"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget_next_key(state: Path) -> None:
    """Drop the CSR under way, so that the next one has a fresh key."""
    remove(state / NEXT_KEY)


def store_svid(state: Path, chain_pem: str, key: ec.EllipticCurvePrivateKey, received: float, renew_at: float) -> None:
    """Replace the certificate. Raises HostError if the disk refuses; the old one stays."""
    tree = {"key": _key_text(key), "chain": chain_pem, "received": received, "renewAt": renew_at}
    tree["keys"] = _append_key(_recorded_keys(state), key)
    write_atomic(state / SVID, json.dumps(tree).encode())
    tell(Renewing.STORED)
    forget_next_key(state)


def load_svid(state: Path) -> tuple[str, ec.EllipticCurvePrivateKey, float, float] | None:
    """Chain (PEM), key, and the times received and renewAt; None if there is none that can be read."""
    try:
        tree = json.loads((state / SVID).read_bytes())
        return str(tree["chain"]), _read_key(tree["key"]), float(tree["received"]), float(tree["renewAt"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def own_keys(state: Path) -> set[str]:
    """sha256 (hex) of the keys that this machine has had of late, as far as it knows."""
    found, under_way = load_svid(state), load_next_key(state)
    keys = [*([found[1]] if found else []), *([under_way[0]] if under_way else [])]
    return {*_recorded_keys(state), *(key_sha256(key.public_key()) for key in keys)}


def remember_key(state: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Remember a key whose certificate is not taken. Raises HostError if the disk refuses."""
    try:
        tree = json.loads((state / SVID).read_bytes())
        tree["keys"] = _append_key(_recorded_keys(state), key)
    except (OSError, ValueError, TypeError):
        return  # there is nothing beside which it could be remembered
    write_atomic(state / SVID, json.dumps(tree).encode())


def _recorded_keys(state: Path) -> list[str]:
    try:
        named = json.loads((state / SVID).read_bytes())["keys"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [one for one in named if isinstance(one, str)] if isinstance(named, list) else []


def _append_key(named: list[str], key: ec.EllipticCurvePrivateKey) -> list[str]:
    name = key_sha256(key.public_key())
    return [*(one for one in named if one != name), name][-RECORDED_KEYS:]


def remove_identity(state: Path) -> None:
    """Forget key and certificate."""
    remove(state / SVID)
    tell(Leaving.CERTIFICATE)
    remove(state / NEXT_KEY)
    tell(Leaving.KEY)


def _key_text(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _read_key(text: object) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(str(text).encode(), password=None)
    except Exception as problem:  # the library raises various types for damaged input
        raise ValueError(f"a key in PEM was expected: {type(problem).__name__}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("a P-256 key was expected")
    return key
