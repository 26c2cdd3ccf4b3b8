"""The command cache: show how much room the decoded photos on this machine take, or delete them."""

import argparse
import dataclasses
import time

from physiq_ray.cli.command import Command, load
from physiq_ray.cli.output import as_json


def run_cache(args: argparse.Namespace) -> int:
    """Show the cache, or empty it."""
    settings = load(args)
    from physiq_ray.prepared import CacheFolder, open_cache

    cache = open_cache(settings.cache_dir, settings.cache_limit_gib)
    folder = cache if isinstance(cache, CacheFolder) else cache.copies
    if args.clear:
        deleted, kept = folder.clear()
        if args.json:
            print(as_json({"folder": str(folder.root), "deleted": deleted, "kept": kept}))
        else:
            still = f", {kept} kept: a running training uses them" if kept else ""
            print(f"{folder.root}: {deleted} shards deleted{still}")
    else:
        uses = folder.uses()
        if args.json:
            print(as_json({"folder": str(folder.root), "sizes": [dataclasses.asdict(use) for use in uses]}))
        else:
            total = sum(use.num_bytes for use in uses)
            print(f"{folder.root}: {_size(total)} of at most {settings.cache_limit_gib:g} GiB")
            for use in uses:
                ages = f"first made {_age(use.made_s)} ago, last used {_age(use.used_s)} ago"
                print(f"  {use.name}: {use.num_shards} shards, {_size(use.num_bytes)}, {ages}")
    if not isinstance(cache, CacheFolder) and not args.json:
        print(f"These are this machine's copies. To empty {cache.prefix}, use the tools of its bucket.")
    return 0


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"


def _age(since_s: float) -> str:
    """Give the time since then in the largest unit of which there are at least two."""
    seconds = max(0.0, time.time() - since_s)
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clear", action="store_true", help="delete all photos that no running training uses"
    )


CACHE = Command(
    "cache",
    "show or empty the cache of decoded photos on disk",
    (
        "physiq-ray cache",
        "physiq-ray cache --cache-dir /mnt/nvme/photos --clear",
    ),
    run_cache,
    settings=("cache_dir", "cache_limit_gib"),
    add_flags=_add_flags,
)
