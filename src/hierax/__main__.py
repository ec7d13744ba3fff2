"""`python -m hierax`: the command line."""

import sys

from hierax.cli import main

if __name__ == "__main__":
    sys.exit(main())
