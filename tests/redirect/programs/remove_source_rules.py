"""Prints the rules of replies that are there, removes them, and prints their number: no agent is needed for that."""

import trio

from exclave.redirect.source_routing import find_source_rules, remove_source_rules

print(*trio.run(find_source_rules), trio.run(remove_source_rules), sep=", ")
