"""An agent that is killed when it has started the proxy's process, `before` or `after` it has opened the gate."""

import os
import signal
import sys
from pathlib import Path

from exclave.proxy.process.binary import ProxyUser
from exclave.proxy.process.launcher import start_child

binary, resolv_conf, output, when = sys.argv[1:]
gated = start_child(Path(binary), ProxyUser("nobody", 65534, 65534), {}, Path(resolv_conf), Path(output))
if when == "after":
    gated.open_gate()
print(gated.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
