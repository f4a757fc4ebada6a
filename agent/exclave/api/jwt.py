"""Reads the claims of a JSON Web Token without verifying it, which the API server does. Pure."""

import base64
from typing import Any

from exclave.kit.formats.json_text import parse_json


def read_claims_untrusted(token: str) -> dict[str, Any]:
    """The claims of a token. Raises ValueError, which quotes nothing of it. Source: RFC 7519; RFC 7515, section 3.1."""
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError("a JSON Web Token of three parts was expected")
    try:
        claims = parse_json(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        raise ValueError("a JSON Web Token with JSON claims was expected") from None
    if not isinstance(claims, dict):
        raise ValueError("a JSON Web Token with an object of claims was expected")
    return claims
