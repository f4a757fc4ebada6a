"""The points between which a crash may happen. Each is logged right after it is reached, for the crash tests."""

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
    """The start of an agent, until pods may send traffic."""

    PRIVATE = "the private link's own rules are in the kernel"
    LINK = "the link is made"
    KEEPALIVE_WAITS = "the keepalive process waits at its gate"
    KEEPALIVE_RELEASED = "the keepalive process's gate is open"
    KEEPALIVE = "the keepalive process holds its table"
    NAMES = "the DNS stub answers"
    PROXY_WAITS = "the proxy waits at its gate, without a record"
    PROXY_RECORDED = "the proxy is on record"
    PROXY_RELEASED = "the proxy's gate is open"
    PROXY_READY = "the proxy is ready, with our certificate"
    RULES = "the rules are in the kernel"
    SERVING = "serving=true was written"
    READY = "Ready=True was written"


class Renewing(Enum):
    """A certificate: the first one and each renewal."""

    KEY = "the new key is on disk"
    ASKED = "the CSR was sent"
    ANSWERED = "the certificate has come, and passed its checks"
    STORED = "key and certificate are in their place"
    SENT = "a proxy has received them"
    PROVEN = "the proxy serves the certificate"


class Moving(Enum):
    """A move to another address, once a proxy serves it."""

    NOTED = "the new address and the former one are on disk"
    PATCHED = "the Member has the new address"
    LEFT = "the former address is dropped"


class Withdrawing(Enum):
    """Ending the traffic, with an agent or without one. `exclave cleanup` begins in the middle."""

    NOT_READY = "Ready=False was written"
    DRAINED = "pods have had time to learn of it"
    NOT_SERVING = "serving=false was written"
    UNLISTED = "the ports are withdrawn"
    HOLDING = "the rules capture nothing new"
    TERMINATED = "the proxy was sent SIGTERM"
    ENDED = "the proxy has ended, and its record is removed"
    KEEPALIVE_ENDED = "the keepalive process has ended"
    TABLE = "the rules are gone"
    LINK = "the link is gone"
    PRIVATE = "the private link's own rules are gone"


class Leaving(Enum):
    """The additional steps of a leave, compared with a stop."""

    NOTED = "the decision to leave is on disk"
    CERTIFICATE = "the certificate is removed"
    KEY = "the key under way is removed"
    DELETED = "the deletion of the Member was requested"
    SETTINGS = "the settings are removed"
    MEMBERSHIP = "the membership is removed"
    BOOT = "the boot's nonce is removed"
    CREDENTIAL = "the credential is removed"


Milestone = Joining | Starting | Renewing | Moving | Withdrawing | Leaving


def log_milestone(milestone: Milestone) -> None:
    """Log that a milestone is reached."""
    log.info("%s", milestone_line(milestone))


def milestone_line(milestone: Milestone) -> str:
    """Its line in the log."""
    return f"{type(milestone).__name__.lower()}: [step={milestone.name.lower()}] {milestone.value}"
