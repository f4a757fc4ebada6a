"""Prints the SSH session that this program was started in, as peers and ports."""

from exclave.redirect.exclusions import find_ssh_session

print(find_ssh_session())
