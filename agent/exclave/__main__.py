"""`python -m exclave` is `exclave`."""

import sys

from exclave.cli import main

sys.exit(main())
