"""Signs with gpg and rpmsign. The secret and its passphrase are in the hands of gpg's agent alone.

gpg finds the key in its home ($GNUPGHOME, or ~/.gnupg). Arguments have the key's fingerprint, which is public.
"""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

GPG = ("gpg", "--batch", "--quiet")

VALIDITY, EXPIRES, CAPABILITIES, VALUE = 1, 6, 11, 9
"""Fields of gpg's listing. Source: doc/DETAILS of GnuPG, "Format of the colon listings"."""


class CannotSign(Exception):
    """The key is missing, cannot be used, or its agent refuses."""


@dataclass(frozen=True)
class Key:
    """A key whose secret gpg has. `public`: the public key as armoured text."""

    fingerprint: str
    public: str


def find_key(name: str) -> Key:
    """The key with this id, fingerprint or address, after it has signed something. Raises CannotSign."""
    listed = subprocess.run(
        [*GPG, "--with-colons", "--list-secret-keys", "--", name], capture_output=True, text=True, errors="replace"
    )
    fingerprint = choose_key(listed.stdout, name)
    public = _run([*GPG, "--armor", "--export", "--export-options", "export-minimal", fingerprint]).decode()
    # Before the build, so that a passphrase is asked for at once, and a refusal costs no time.
    _run([*GPG, "--local-user", fingerprint, "--detach-sign"], b"")
    return Key(fingerprint, public)


def choose_key(listing: str, name: str) -> str:
    """The fingerprint of the one key in gpg's listing. Raises CannotSign if it is none, or one that cannot sign."""
    rows = [line.split(":") for line in listing.splitlines()]
    keys = [index for index, row in enumerate(rows) if row[0] == "sec"]
    if not keys:
        raise CannotSign(f"gpg has no secret key {name}: gpg --list-secret-keys lists those of this GnuPG home")
    if len(keys) > 1:
        raise CannotSign(f"gpg has {len(keys)} secret keys {name}: name one by its fingerprint")
    row = rows[keys[0]]
    fingerprint = next(one[VALUE] for one in rows[keys[0] :] if one[0] == "fpr")
    if row[VALIDITY] == "e":
        date = datetime.fromtimestamp(int(row[EXPIRES]), timezone.utc).date()
        raise CannotSign(f"the key {fingerprint} expired on {date}: gpg --quick-set-expire {fingerprint} 1y extends it")
    if row[VALIDITY] == "r":
        raise CannotSign(f"the key {fingerprint} is revoked: a release needs another one")
    if "S" not in row[CAPABILITIES]:  # in capitals: what the whole key can do now, with its subkeys
        raise CannotSign(f"the key {fingerprint} cannot sign: a release needs one with a valid part for signing")
    return fingerprint


def sign_beside(file: Path, key: Key) -> Path:
    """Write FILE.asc, an armoured signature. Raises CannotSign."""
    target = file.with_name(f"{file.name}.asc")
    _run([*GPG, "--local-user", key.fingerprint, "--armor", "--detach-sign", "--output", str(target), str(file)])
    return target


def sign_inside(file: Path, target: Path, key: Key) -> None:
    """Write `target`: the text of a file with its signature around it. Raises CannotSign."""
    _run([*GPG, "--local-user", key.fingerprint, "--clearsign", "--output", str(target), str(file)])


def sign_packages(packages: Sequence[Path], key: Key) -> None:
    """Sign rpms in place. Raises CannotSign."""
    names = ["--define", f"_gpg_name {key.fingerprint}", "--define", "__gpg /usr/bin/gpg"]
    _run(["rpmsign", *names, "--addsign", *map(str, packages)])


def verify(file: Path, signature: Path, key: Key) -> bool:
    """True if this very key has signed the file."""
    command = [*GPG, "--status-fd", "1", "--verify", str(signature), str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode == 0 and any(
        line.startswith("[GNUPG:] VALIDSIG ") and line.endswith(f" {key.fingerprint}")  # the last: the primary key
        for line in done.stdout.splitlines()
    )


def _run(command: Sequence[str], given: bytes = b"") -> bytes:
    done = subprocess.run(command, capture_output=True, input=given)
    if done.returncode != 0:
        raise CannotSign(f"{command[0]} cannot sign: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
