"""`python -m parties.cli` is `enclave`."""

import sys

from parties.cli import main

if __name__ == "__main__":
    sys.exit(main())
