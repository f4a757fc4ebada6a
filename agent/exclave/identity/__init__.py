"""Who this machine is: its key, its certificate, and their renewal."""

from exclave.identity.names import MeshIdentity
from exclave.identity.renew import Identity, open_identity
from exclave.identity.svid import Svid

__all__ = ["Identity", "MeshIdentity", "Svid", "open_identity"]
