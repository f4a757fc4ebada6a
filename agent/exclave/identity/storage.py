"""Key and certificate on disk, readable by root only. `next.key`: the key of the pending CSR.

`svid.json`: key and chain in one file, so that they match, the times set at arrival, and hashes of own keys.
"""

import json
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.api.csr import key_sha256
from exclave.kit.formats.json_text import parse_json
from exclave.kit.host.files import remove, write_atomic
from exclave.milestones import Leaving, Renewing, log_milestone

SVID = "svid.json"
NEXT_KEY = "next.key"

RECORDED_KEYS = 8  # own keys that are recorded: more than a Member's status has certificates


def generate_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key, the only kind that the whole mesh accepts."""
    return ec.generate_private_key(ec.SECP256R1())


def store_next_key(state: Path, key: ec.EllipticCurvePrivateKey, csr: str) -> None:
    """Store the key of a CSR before it is sent: the controller signs a CSR only once. Raises HostError."""
    write_atomic(state / NEXT_KEY, json.dumps({"key": key_text(key), "csr": csr}).encode())


def load_next_key(state: Path) -> tuple[ec.EllipticCurvePrivateKey, str] | None:
    """Key and CSR that are pending; None if there are none, or the file cannot be read."""
    try:
        tree = parse_json((state / NEXT_KEY).read_bytes())
        return _read_key(tree["key"]), str(tree["csr"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget_next_key(state: Path) -> None:
    """Remove the pending CSR, so that the next one has a new key."""
    remove(state / NEXT_KEY)


def store_svid(state: Path, chain_pem: str, key: ec.EllipticCurvePrivateKey, received: float, renew_at: float) -> None:
    """Replace the certificate. Raises HostError if it cannot be written; the old one stays."""
    tree = {"key": key_text(key), "chain": chain_pem, "received": received, "renewAt": renew_at}
    tree["keys"] = _append_key(_recorded_keys(state), key)
    write_atomic(state / SVID, json.dumps(tree).encode())
    log_milestone(Renewing.STORED)
    forget_next_key(state)


def load_svid(state: Path) -> tuple[str, ec.EllipticCurvePrivateKey, float, float] | None:
    """Chain (PEM), key, and the times received and renewAt; None if the file is missing or cannot be read."""
    try:
        tree = parse_json((state / SVID).read_bytes())
        return str(tree["chain"]), _read_key(tree["key"]), float(tree["received"]), float(tree["renewAt"])
    except (OSError, ValueError, KeyError, OverflowError, TypeError):
        return None


def own_keys(state: Path) -> set[str]:
    """sha256 (hex) of this machine's last keys, as far as they are on disk."""
    found, pending = load_svid(state), load_next_key(state)
    keys = [*([found[1]] if found else []), *([pending[0]] if pending else [])]
    return {*_recorded_keys(state), *(key_sha256(key.public_key()) for key in keys)}


def record_key(state: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Record a key whose certificate was not accepted, if there is svid.json. Raises HostError."""
    try:
        tree = parse_json((state / SVID).read_bytes())
        tree["keys"] = _append_key(_recorded_keys(state), key)
    except (OSError, ValueError, TypeError):
        return
    write_atomic(state / SVID, json.dumps(tree).encode())


def _recorded_keys(state: Path) -> list[str]:
    try:
        named = parse_json((state / SVID).read_bytes())["keys"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [one for one in named if isinstance(one, str)] if isinstance(named, list) else []


def _append_key(named: list[str], key: ec.EllipticCurvePrivateKey) -> list[str]:
    name = key_sha256(key.public_key())
    return [*(one for one in named if one != name), name][-RECORDED_KEYS:]


def remove_identity(state: Path) -> None:
    """Remove key and certificate."""
    remove(state / SVID)
    log_milestone(Leaving.CERTIFICATE)
    remove(state / NEXT_KEY)
    log_milestone(Leaving.KEY)


def key_text(key: ec.EllipticCurvePrivateKey) -> str:
    """The key as PEM (PKCS#8, not encrypted)."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _read_key(text: object) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(str(text).encode(), password=None)
    except Exception as problem:  # cryptography raises various types for damaged input
        raise ValueError(f"a key in PEM was expected: {type(problem).__name__}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("a P-256 key was expected")
    return key
