"""`nft` and `ip` that do nothing, and write to a file what they were told to do."""

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
    """Put them into a folder, which is made; rules of ours are there, and no links."""
    folder.mkdir()
    for name, script in {"nft": _NFT, "ip": _IP}.items():
        (folder / name).write_text(script.format(trace=trace))
        (folder / name).chmod(0o755)
