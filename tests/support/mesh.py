"""A mesh's keys and one member's names, made once a run."""

from dataclasses import dataclass
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.api.identity import MeshIdentity
from exclave.identity.svid import Svid, check_svid
from exclave_sandbox.pki import Authority, make_anchor, make_issuer, make_leaf

IDENTITY = MeshIdentity("web", "shop", "linkerd", "cluster.local")


@dataclass(frozen=True)
class Mesh:
    """An anchor and an issuer below it."""

    anchor: Authority
    issuer: Authority

    def leaf(self, **options: object) -> Authority:
        """A leaf with a member's names, in the proven order."""
        names = [x509.DNSName(IDENTITY.dns_name), x509.UniformResourceIdentifier(IDENTITY.spiffe_id)]
        return make_leaf(self.issuer, names, **options)  # type: ignore[arg-type]

    def chain(self, leaf: Authority) -> str:
        """Leaf and issuer, as a controller delivers them."""
        return leaf.pem + self.issuer.pem

    def svid(self, now: float, **options: object) -> Svid:
        """A certificate that passes every check."""
        leaf = self.leaf(**options)
        assert isinstance(leaf.key, ec.EllipticCurvePrivateKey)
        return check_svid(self.chain(leaf), leaf.key, self.anchor.pem, IDENTITY, now)


@cache
def mesh() -> Mesh:
    """The mesh of this test run."""
    anchor = make_anchor()
    return Mesh(anchor, make_issuer(anchor))
