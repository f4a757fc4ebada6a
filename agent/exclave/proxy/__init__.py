"""The proxy: what linkerd2-proxy is told, its process, whether it serves; it outlives the agent that hands over."""

from exclave.proxy.binary import ProxyUser, find_user
from exclave.proxy.instance import open_proxy
from exclave.proxy.states import State
from exclave.proxy.watching import InstanceView, Proxy

__all__ = ["InstanceView", "Proxy", "ProxyUser", "State", "find_user", "open_proxy"]
