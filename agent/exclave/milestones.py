"""The steps that a crash may come between, by subject; each is told in one line of the log once it has been done.

Rules: whoever does a step tells it right after, and before anything else; so what a line of the log says has happened,
and the line after the last one is what a crash has cut off. A step may be told again when it is done again. The steps
of a swap stand beside the swap itself.
"""

import logging
from enum import Enum

log = logging.getLogger(__name__)


class Joining(Enum):
    """`exclave join`, until this machine is a member."""

    KEYS = "nonce and keys are on disk"
    CREATED = "the Member exists"
    ADMITTED = "the controller has admitted it"
    CREDENTIAL = "the credential is stored"
    SETTINGS = "the settings are stored"
    CERTIFICATE = "the certificate is stored"
    HEARTBEAT = "the first heartbeat was accepted"
    MEMBER = "the membership is stored"


class Starting(Enum):
    """An agent's boot, until pods may send traffic."""

    LINK = "the link is made"
    KEEPALIVE_WAITS = "the keepalive process waits at its gate"
    KEEPALIVE_RELEASED = "the keepalive process's gate is open"
    KEEPALIVE = "the keepalive process holds its table"
    NAMES = "names are answered"
    PROXY_WAITS = "the proxy waits at its gate, on no record"
    PROXY_RECORDED = "the proxy is on record"
    PROXY_RELEASED = "the proxy's gate is open"
    PROXY_READY = "the proxy is ready, with our certificate"
    RULES = "the rules are in the kernel"
    SERVING = "serving=true was said"
    READY = "Ready=True was said"


class Renewing(Enum):
    """A certificate, the first like any other."""

    KEY = "the new key is on disk"
    ASKED = "the CSR was sent"
    ANSWERED = "the certificate has come, and is good"
    STORED = "key and certificate are in their place"
    TOLD = "a proxy was sent them"
    PROVEN = "the proxy serves the certificate"


class Moving(Enum):
    """Another address of this machine, once a proxy serves it."""

    NOTED = "the new address and the former one are on disk"
    SAID = "the Member says the new address"
    LEFT = "the former address is forgotten"


class Withdrawing(Enum):
    """Walking back, with an agent or from cold; a clean-up begins in the middle."""

    NOT_READY = "Ready=False was said"
    NOT_SERVING = "serving=false was said"
    UNLISTED = "the ports are withdrawn"
    DRAINED = "pods have had time to hear"
    HOLDING = "the rules capture nothing new"
    TERMINATED = "the proxy was told to end"
    ENDED = "the proxy has ended, and is off the record"
    KEEPALIVE_ENDED = "the keepalive process has ended"
    TABLE = "the rules are gone"
    LINK = "the link is gone"


class Leaving(Enum):
    """What leaving is more than stopping."""

    NOTED = "that this machine leaves is on disk"
    CERTIFICATE = "the certificate is removed"
    KEY = "the key under way is removed"
    DELETED = "the Member's deletion was asked for"
    SETTINGS = "the settings are removed"
    MEMBERSHIP = "the membership is removed"
    BOOT = "the boot's nonce is removed"
    CREDENTIAL = "the credential is removed"


Step = Joining | Starting | Renewing | Moving | Withdrawing | Leaving


def tell(step: Step) -> None:
    """Log that a step has been done."""
    log.info("%s", line_of(step))


def line_of(step: Step) -> str:
    """The line of a step."""
    return f"{type(step).__name__.lower()}: [step={step.name.lower()}] {step.value}"
