"""`python -m physiq_ray.cli` does the same as the command physiq-ray."""

import sys

from physiq_ray.cli import main

if __name__ == "__main__":
    sys.exit(main())
