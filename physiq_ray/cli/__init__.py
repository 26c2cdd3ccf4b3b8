"""The command line: parse, call one function, print. Exit 0 done, 1 failed or partly failed, 2 wrong use.

Ray, torch, Arrow and S3 are imported inside the command that needs them, so that --help answers at once.

parser    commands and flags, these from the settings' fields
train     train
audit     audit
evaluate  evaluate
demo      demo
predict   predict, photo by photo or by the bucket
addresses @list.txt → the addresses in it
answers   its answers as blocks, table, CSV or JSON
serve     the HTTP service on this machine
sync      buckets into a folder
cache     decoded photos on disk
cleanse   photos without a label out of buckets
output    what commands share: display, JSON, results as text
terminal  text where not all of it can be shown
"""

import sys
import traceback
from collections.abc import Sequence

from physiq_ray.cli.parser import build_parser
from physiq_ray.cli.terminal import print_anywhere
from physiq_ray.errors import PhysiqError, SettingError

__all__ = ["build_parser", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status."""
    print_anywhere()  # before the parser, whose help and errors are text too
    parser = build_parser()
    args = parser.parse_args(arguments)
    try:
        return int(args.run(args))
    except PhysiqError as error:
        if args.debug:
            traceback.print_exc()
        print(f"physiq-ray {args.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, SettingError) else 1
    except OSError as error:  # the last resort: a place on the disk that no module has words for
        if args.debug:
            traceback.print_exc()
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"physiq-ray {args.command}: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"physiq-ray {args.command}: interrupted", file=sys.stderr)
        return 1
