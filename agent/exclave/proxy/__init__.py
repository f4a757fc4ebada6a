"""The proxy: what linkerd2-proxy is told, its process, whether it serves; it outlives the agent that hands over."""

from exclave.proxy.binary import ProxyUser, find_user
from exclave.proxy.differences import Difference
from exclave.proxy.instance import Proxy, open_proxy
from exclave.proxy.states import State
from exclave.proxy.views import InstanceView, Views

__all__ = ["Difference", "InstanceView", "Proxy", "ProxyUser", "State", "Views", "find_user", "open_proxy"]
