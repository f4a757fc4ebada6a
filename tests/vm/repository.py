"""A signed apt repository in a folder, small enough to be made here: one suite, one component."""

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

SUITE, COMPONENT = "stable", "main"


def make_repository(folder: Path, packages: Sequence[Path]) -> str:
    """Write it, signed with a new key; that key as armoured text. Needs gpg and dpkg."""
    architecture = _output("dpkg", "--print-architecture").strip()
    index = Path(COMPONENT, f"binary-{architecture}", "Packages")
    suite = folder / "dists" / SUITE
    (suite / index).parent.mkdir(parents=True)
    for package in packages:
        shutil.copyfile(package, folder / package.name)
    text = "".join(_stanza(folder / package.name) for package in packages)
    (suite / index).write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    release = [
        f"Suite: {SUITE}",
        f"Components: {COMPONENT}",
        f"Architectures: {architecture}",
        f"Date: {_output('date', '--utc', '--rfc-email').strip()}",
        "SHA256:",
        f" {digest} {len(text.encode())} {index}",
    ]
    return _sign("\n".join(release) + "\n", suite / "InRelease")


def _stanza(package: Path) -> str:
    content = package.read_bytes()
    fields = _output("dpkg-deb", "--field", str(package))
    return f"{fields}Filename: {package.name}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n\n"


def _sign(text: str, target: Path) -> str:
    with tempfile.TemporaryDirectory(prefix="gpg") as home:
        gpg = ("gpg", "--batch", "--quiet", "--homedir", home)
        _output(*gpg, "--passphrase", "", "--quick-generate-key", "a test", "ed25519", "sign", "never")
        target.write_text(_output(*gpg, "--clearsign", stdin=text))
        key = _output(*gpg, "--armor", "--export")
        _output("gpgconf", "--homedir", home, "--kill", "gpg-agent")
    return key


def _output(*words: str, stdin: str = "") -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, input=stdin).stdout
