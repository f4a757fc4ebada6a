"""exclave makes a virtual machine a member of a Linkerd mesh."""

__version__ = "0.1.0"
