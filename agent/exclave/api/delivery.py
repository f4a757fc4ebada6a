"""Encrypts a credential to one machine's delivery key, since others may read the Member that contains it. Pure.

So a stolen join token reveals no other machine's credential. Format: compact JWE (RFC 7516), ECDH-ES and A256GCM over
P-256 (RFC 7518, section 4.6); the library makes the ephemeral key.
"""

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwcrypto import jwe, jwk
from jwcrypto.common import JWException, json_encode

HEADER = {"alg": "ECDH-ES", "enc": "A256GCM"}


def delivery_key_text(key: ec.EllipticCurvePrivateKey) -> str:
    """The public half as a Member contains it: SubjectPublicKeyInfo, PEM."""
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def read_delivery_key(delivery_key: str) -> ec.EllipticCurvePublicKey:
    """The inverse of `delivery_key_text`. Raises ValueError if it is not a P-256 key."""
    try:
        public = serialization.load_pem_public_key(delivery_key.encode())
    except Exception as problem:
        raise ValueError(f"deliveryKey: a P-256 public key in PEM was expected: {type(problem).__name__}") from None
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise ValueError("deliveryKey: a P-256 public key was expected, found another kind")
    return public


def seal(credential: str, delivery_key: str) -> str:
    """Encrypt a credential to a delivery key (PEM). Raises ValueError if it is not a P-256 key."""
    public = read_delivery_key(delivery_key)
    sealed = jwe.JWE(credential.encode(), json_encode(HEADER))
    sealed.add_recipient(jwk.JWK.from_pyca(public))
    return str(sealed.serialize(compact=True))


def unseal(sealed: str, key: ec.EllipticCurvePrivateKey) -> str:
    """Decrypt a result of `seal` with this key. Raises ValueError, which quotes no content."""
    opened = jwe.JWE(algs=[HEADER["alg"], HEADER["enc"]])
    try:
        opened.deserialize(sealed, key=jwk.JWK.from_pyca(key))
    except (JWException, ValueError, TypeError):
        raise ValueError("the credential was not sealed to this machine's delivery key, or is damaged") from None
    return bytes(opened.payload).decode()
