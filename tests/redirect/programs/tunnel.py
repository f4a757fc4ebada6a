"""A tunnel between two network namespaces: pid, pid, name. Makes a device of that name in both, and copies packets."""

import ctypes
import fcntl
import os
import select
import struct
import subprocess
import sys

CLONE_NEWNET = 0x4000_0000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x1, 0x1000
MTU = 1280


def open_tun(pid: str, name: str) -> int:
    """A new device in the namespace of this process."""
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    assert ctypes.CDLL(None).setns(namespace, CLONE_NEWNET) == 0
    os.close(namespace)
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(["/usr/sbin/ip", "link", "set", name, "mtu", str(MTU), "up"], check=True)  # PATH leads elsewhere
    return device


one, other = (open_tun(pid, sys.argv[3]) for pid in sys.argv[1:3])
print("up", flush=True)
while True:
    for ready in select.select([one, other], [], [])[0]:
        os.write(other if ready == one else one, os.read(ready, 65536))
