"""Name servers as machines meet them, for lookups of trio."""

import errno
import socket
from ipaddress import ip_address
from typing import Any

import trio


class NameServers(trio.abc.HostnameResolver):
    """Answers for one run of trio: `answers` by name, a failure to raise, or None for silence."""

    def __init__(self, **answers: "tuple[str, ...] | OSError | None") -> None:
        self.answers = {name.replace("_", "."): answer for name, answer in answers.items()}
        self.asked: list[str] = []
        trio.socket.set_custom_hostname_resolver(self)

    async def getaddrinfo(self, host: Any, port: Any, *_: Any) -> Any:
        name = str(host, "ascii")
        self.asked.append(name)
        await trio.lowlevel.checkpoint()
        answer = self.answers[name]
        if answer is None:
            await trio.sleep_forever()
        if isinstance(answer, OSError):
            raise answer
        return [_target(address, port) for address in answer]

    async def getnameinfo(self, *_: Any) -> Any:
        raise AssertionError("nobody asks for the name of an address")


def _target(address: str, port: int) -> tuple[Any, ...]:
    bare, _, zone = address.partition("%")
    if ip_address(bare).version == 4:
        return socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)
    return socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 3 if zone else 0)


def no_such_name() -> OSError:
    return socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def no_name_server() -> OSError:
    return socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def network_is_down() -> OSError:
    return OSError(errno.ENETDOWN, "Network is down")
