"""`python -m scope_patch`."""

import sys

from scope_patch.cli import main

if __name__ == "__main__":
    sys.exit(main())
