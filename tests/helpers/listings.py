"""List one source, read the keys of a listing, and fill a folder to be listed."""

from pathlib import Path
from typing import Any

from physiq_ray.storage import Listing, list_sources, parse_source


def list_one(address: str | Path) -> Listing:
    [listing] = list_sources([parse_source(str(address))])
    return listing


def table_of(listing: Listing) -> Any:
    """Give the Arrow table of a listing that must have succeeded."""
    assert listing.error is None, listing.error
    return listing.table


def keys_of(listing: Listing) -> list[str]:
    return sorted(table_of(listing)["key"].to_pylist())


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder
