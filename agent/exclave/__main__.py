"""`python -m exclave` is `exclave`."""

import sys

from exclave.cli.main import main

sys.exit(main())
