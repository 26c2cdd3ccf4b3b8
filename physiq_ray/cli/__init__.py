"""The command line: each command parses, calls one function, and prints the result.

Exit status: 0 done, 1 failed or partly failed, 2 wrong use. Ray, torch, Arrow and S3 are imported inside the
run functions, so that --help answers at once.

Each command has a file of its own, with its flags, its settings, its examples, and what it runs and prints:

demo      the whole main path on generated photos
train     train a model
audit     count and check photos and labels
suspects  find labels that are likely wrong
review    label photos on a page
labels    merge decisions into the label file
evaluate  score a model
predict   predict photos, or a bucket
export    write a model for programs without this package
serve     answer HTTP requests on this machine
sync      download photos
cleanse   find and remove unlabelled photos
erase     find and erase the photos and traces of a person
cache     show or delete prepared photos
doctor    check whether a run would work

The other files:

command   what a command consists of, and how it loads its settings
parser    which commands there are; settings → flags, in groups
addresses predict's @list.txt → the addresses in it
answers   predict's formats: blocks, table, CSV or JSON
sheet     the pages of thumbnails that cleanse draws
output    what commands share when they print: progress display, JSON, answers, names
terminal  text on terminals whose encoding lacks some characters
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
    print_anywhere()  # before the parser prints help or errors
    parser = build_parser()
    args = parser.parse_args(arguments)
    try:
        return int(args.run(args))
    except PhysiqError as error:
        if args.debug:
            traceback.print_exc()
        print(f"physiq-ray {args.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, SettingError) else 1
    except OSError as error:  # errors of the disk that no module translates
        if args.debug:
            traceback.print_exc()
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"physiq-ray {args.command}: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"physiq-ray {args.command}: interrupted", file=sys.stderr)
        return 1
