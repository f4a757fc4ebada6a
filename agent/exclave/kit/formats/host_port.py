"""A host and a port as one text: `10.42.0.9:80`, `[fd00::1]:80`, `web.shop:80`. Pure. Source: RFC 3986, section 3.2."""


def join_host_port(host: str, port: int | str) -> str:
    """The text. An IPv6 address is put in brackets; an empty host results in `:80`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_host_port(text: str, *, lowest: int = 1) -> tuple[str, int]:
    """Host ("" if none, IPv6 without brackets, unchecked) and port; `lowest=0` allows port 0. Raises ValueError."""
    host, separator, port = text.rpartition(":")
    if not separator or not (port.isascii() and port.isdecimal() and lowest <= int(port) <= 65535):
        raise ValueError(f"a port from {lowest} to 65535 was expected after the last colon, found {text!r}")
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], int(port)
    if ":" in host:
        raise ValueError(f"an IPv6 address in brackets was expected, such as [fd00::1]:80, found {text!r}")
    return host, int(port)
