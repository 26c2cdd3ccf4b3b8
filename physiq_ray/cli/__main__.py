"""`python -m physiq_ray.cli`: what the command physiq-ray runs."""

import sys

from physiq_ray.cli import main

if __name__ == "__main__":
    sys.exit(main())
