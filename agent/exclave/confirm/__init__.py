"""Rules that go back by themselves unless somebody confirms that the machine can still be reached."""

from exclave.confirm.keeping import Confirming, open_confirm
from exclave.confirm.record import Unconfirmed, forget_unconfirmed, load_unconfirmed, store_unconfirmed

__all__ = [
    "Confirming",
    "Unconfirmed",
    "forget_unconfirmed",
    "load_unconfirmed",
    "open_confirm",
    "store_unconfirmed",
]
