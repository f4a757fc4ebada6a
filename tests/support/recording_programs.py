"""Programs `nft` and `ip` that do nothing but append their calls to a file."""

from pathlib import Path

_NFT = """#!/bin/sh
if [ "$1" = -j ]; then
    echo '{{"nftables": [{{"table": {{"family": "inet", "name": "exclave"}}}}]}}'
elif grep -q 'chain kept'; then
    echo "nft: hold" >> {trace}
else
    echo "nft: remove" >> {trace}
fi
"""

_IP = """#!/bin/sh
echo ip "$@" >> {trace}
echo "[]"
"""


def write_recording_programs(folder: Path, trace: Path) -> None:
    """Write them into a new folder. They report a table of exclave and no links."""
    folder.mkdir()
    for name, script in {"nft": _NFT, "ip": _IP}.items():
        (folder / name).write_text(script.format(trace=trace))
        (folder / name).chmod(0o755)
