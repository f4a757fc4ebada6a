"""Remove the routing rules of replies; print how many there were."""

import trio

from exclave.redirect.source_routing import remove_source_rules

print(trio.run(remove_source_rules))
