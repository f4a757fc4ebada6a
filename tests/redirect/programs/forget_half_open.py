"""Delete half-open connections from or to these addresses."""

import sys

import trio

from exclave.redirect.kernel.half_open import forget_half_open

trio.run(forget_half_open, sys.argv[1:])
