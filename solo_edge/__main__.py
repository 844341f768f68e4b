"""`python -m solo_edge` is the command `solo-edge`."""

import sys

from solo_edge.cli import main

if __name__ == "__main__":
    sys.exit(main())
