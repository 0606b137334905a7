"""`python -m segfocal` is the command line."""

import sys

from segfocal.cli import main

if __name__ == "__main__":
    sys.exit(main())
