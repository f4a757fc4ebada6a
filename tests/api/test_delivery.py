import base64
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from exclave.api.delivery import delivery_key_text, seal, unseal

SECRET = "eyJhbGciOi.a-kubernetes-token.c2ln"


def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def test_the_machine_opens_what_was_sealed_to_it() -> None:
    machine = key()
    assert unseal(seal(SECRET, delivery_key_text(machine)), machine) == SECRET


def test_another_machine_does_not() -> None:
    sealed = seal(SECRET, delivery_key_text(key()))
    with pytest.raises(ValueError, match="not sealed to this machine's delivery key, or is damaged") as refused:
        unseal(sealed, key())
    assert SECRET not in str(refused.value)


def test_it_is_a_compact_jwe_with_the_standard_algorithms() -> None:
    sealed = seal(SECRET, delivery_key_text(key()))
    head, encrypted_key, *rest = sealed.split(".")
    header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    assert (header["alg"], header["enc"], header["epk"]["crv"]) == ("ECDH-ES", "A256GCM", "P-256")
    assert encrypted_key == ""
    assert len(rest) == 3
    assert SECRET not in sealed


def test_two_seals_differ() -> None:
    machine = delivery_key_text(key())
    assert seal(SECRET, machine) != seal(SECRET, machine)


def test_a_changed_seal_is_damaged() -> None:
    machine = key()
    sealed = seal(SECRET, delivery_key_text(machine))
    for broken in (sealed[:-2], sealed.replace(".", ",", 1), "", "a.b.c.d.e"):
        with pytest.raises(ValueError, match="is damaged"):
            unseal(broken, machine)


def other_kinds() -> list[str]:
    def pem(public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> str:
        return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()

    return [
        pem(ec.generate_private_key(ec.SECP384R1()).public_key()),
        pem(rsa.generate_private_key(65537, 2048).public_key()),
    ]


@pytest.mark.parametrize("text", other_kinds(), ids=["P-384", "RSA"])
def test_another_kind_of_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="deliveryKey: a P-256 public key was expected, found another kind"):
        seal(SECRET, text)


def test_what_is_no_key_is_refused() -> None:
    with pytest.raises(ValueError, match="deliveryKey: a P-256 public key in PEM was expected"):
        seal(SECRET, "nonsense")


def b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def coordinate(number: int, size: int = 32) -> str:
    return b64(number.to_bytes(size, "big"))


P256 = {"kty": "EC", "crv": "P-256"}
P384_POINT = ec.generate_private_key(ec.SECP384R1()).public_key().public_numbers()
KEYS: dict[str, object] = {
    "on P-384": {
        "kty": "EC", "crv": "P-384", "x": coordinate(P384_POINT.x, 48), "y": coordinate(P384_POINT.y, 48),
    },
    "of X25519": {"kty": "OKP", "crv": "X25519", "x": coordinate(9)},
    "that is symmetric": {"kty": "oct", "k": coordinate(7)},
    "that is no point of the curve": {**P256, "x": coordinate(1), "y": coordinate(5)},
    "at the origin": {**P256, "x": coordinate(0), "y": coordinate(0)},
    "with a coordinate that is too long": {**P256, "x": coordinate(2**500, 64), "y": coordinate(1)},
    "without a curve": {"kty": "EC"},
    "that is a list": [],
    "that is a text": "x",
}  # fmt: skip


@pytest.mark.parametrize("epk", KEYS.values(), ids=[f"an ephemeral key {what}" for what in KEYS])
def test_a_credential_that_others_wrote_is_damaged(epk: object) -> None:
    """An invalid point would give away the delivery key, bit by bit, if the machine computed with it."""
    machine = key()
    head, rest = seal(SECRET, delivery_key_text(machine)).split(".", 1)
    header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    for changed in ({"epk": epk}, {"epk": epk, "alg": "ECDH-ES+A128KW"}):
        forged = f"{b64(json.dumps(header | changed).encode())}.{rest}"
        with pytest.raises(ValueError, match="is damaged"):
            unseal(forged, machine)


@pytest.mark.parametrize(
    "header", [b"{}", b"[]", b'{"alg":"ECDH-ES","enc":"A256GCM","epk":' + b"[" * 99_999 + b"]" * 99_999 + b"}"]
)
def test_a_header_that_is_none_is_damaged(header: bytes) -> None:
    machine = key()
    rest = seal(SECRET, delivery_key_text(machine)).split(".", 1)[1]
    with pytest.raises(ValueError, match="is damaged"):
        unseal(f"{b64(header)}.{rest}", machine)
