"""Which photos are a person's: histories of buckets, labels, journals of `cleanse` and a request go in.

A photo is chosen by its key (`--match`, `--group` with group_pattern), by a label (`--group`), by its address
(`--uris`), or as a copy: its content (size and ETag) is that of a chosen photo. Groups that only a chain of
copies joins are not followed, because they may hold photos of other people.

| a version of a key                           | deleted                           | its address counts |
|----------------------------------------------|-----------------------------------|--------------------|
| the key is chosen                            | all versions and delete markers   | yes                |
| not chosen, all its versions are copies      | all versions and delete markers   | yes                |
| not chosen, some of its versions are copies  | these versions, no delete marker  | no                 |
| where `cleanse` moved a chosen photo         | versions with the moved content   | if none is left    |
| any other                                    | none                              | no                 |

Traces (rows, lines, prepared photos) are searched by the addresses that count and by the content. The content
of an older version of a chosen key is not searched under other names: a key may have been used twice.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.cleanse.journal import Entry
from physiq_ray.erase.named import Named
from physiq_ray.errors import SettingError
from physiq_ray.labels import Labels
from physiq_ray.manifest import pattern_texts
from physiq_ray.manifest.match import concat_photos, match_labels
from physiq_ray.prepared import photo_keys
from physiq_ray.storage import LISTING_SCHEMA, Bucket, Listing, is_photo, split_uri
from physiq_ray.storage.history import HISTORY_SCHEMA, Stored, to_stored

Content = tuple[int, str]  # size in bytes and ETag


@dataclass(frozen=True)
class Request:
    """Whose photos: exactly one of group, match and named is given. named: the photos of `--uris`."""

    group: str | None = None
    match: str | None = None
    named: tuple[Named, ...] = ()
    group_pattern: str | None = None


@dataclass(frozen=True)
class Photos:
    """The chosen photos.

    stored: the versions and delete markers to delete. wanted: the addresses that the request means. uris: the
    addresses whose traces are erased, those of copies too. contents: of the photos. keys: of their prepared
    photos. labels: their names in the label files. ambiguous: names of the group's labels that may mean
    several photos, of which none is chosen. others: addresses that match, but are no photos.
    """

    stored: tuple[Stored, ...] = ()
    wanted: frozenset[str] = frozenset()
    uris: frozenset[str] = frozenset()
    contents: frozenset[Content] = frozenset()
    keys: frozenset[bytes] = frozenset()
    labels: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def holds(self, uri: object, size: object = None, etag: object = None) -> bool:
        """Tell whether a record with these values is about one of the photos."""
        has_content = isinstance(size, int) and isinstance(etag, str)
        return (isinstance(uri, str) and uri in self.uris) or (has_content and (size, etag) in self.contents)

    def named(self, entries: Iterable[Entry]) -> list[Named]:
        """Give the lines of the journal: each address with each content, and where `cleanse` moved it."""
        lines = [Named(uri) for uri in sorted(self.uris)]
        lines += [
            Named(item.uri, item.size, item.etag, is_older=(item.size, item.etag) not in self.contents)
            for item in self.stored
            if item.uri in self.uris and not item.is_marker
        ]
        lines += [
            Named(entry.uri, entry.size, entry.etag, entry.moved_to)
            for entry in entries
            if self.holds(entry.uri, entry.size, entry.etag)
        ]
        return list(dict.fromkeys(lines))


@dataclass
class _Wanted:
    """What the request means: addresses, contents, both together, and where `cleanse` moved the photos."""

    uris: set[str] = field(default_factory=set)
    contents: set[Content] = field(default_factory=set)
    known: set[tuple[str, int, str]] = field(default_factory=set)
    moved: dict[str, Content] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()


def choose_photos(
    histories: Mapping[Bucket, pa.Table],
    request: Request,
    labels: Labels,
    poses: Mapping[int, str],
    entries: Sequence[Entry],
    *,
    source_buckets: Mapping[str, str],
    look_up: Callable[[str], pa.Table],
) -> Photos:
    """Decide which versions are deleted, and which addresses and contents have traces.

    histories: HISTORY_SCHEMA of each source. entries: of the journals of `cleanse`. look_up: gives the
    history of one address, for photos outside the sources.
    Raises SettingError: no photo can have a group, or RE2 does not accept an expression; and the errors of
    look_up.
    """
    table = pa.concat_tables([HISTORY_SCHEMA.empty_table(), *histories.values()])
    named = {item.uri for item in request.named}
    are_photos = pa.array([is_photo(uri) or uri in named for uri in table["uri"].to_pylist()], pa.bool_())
    others, table = table.filter(pc.invert(are_photos)), table.filter(are_photos)
    wanted = _find_wanted(histories, table, request, labels, poses, entries, source_buckets)
    _add_contents(wanted, table, request.named, entries)
    sources = tuple(f"s3://{source.name}/{source.prefix}" for source in histories)
    outside = [uri for uri in sorted(wanted.uris | wanted.moved.keys()) if not uri.startswith(sources)]
    if outside:
        table = pa.concat_tables([table, *map(look_up, outside)])
        _add_contents(wanted, table, request.named, ())
    chosen, uris = _choose(table, wanted)
    versions = [item for item in chosen if not item.is_marker]
    matching = _match_keys(others, request)
    return Photos(
        tuple(chosen),
        frozenset(wanted.uris),
        frozenset(uris),
        frozenset(wanted.contents),
        frozenset(find_keys({*wanted.known, *((item.uri, item.size, item.etag) for item in versions)})),
        wanted.labels,
        wanted.ambiguous,
        tuple(others.filter(matching)["uri"].unique().to_pylist()),
    )


def _find_wanted(
    histories: Mapping[Bucket, pa.Table],
    table: pa.Table,
    request: Request,
    labels: Labels,
    poses: Mapping[int, str],
    entries: Sequence[Entry],
    source_buckets: Mapping[str, str],
) -> _Wanted:
    """Find the addresses in the listings and in the journals of `cleanse` that the request means."""
    gone = [Entry(item.uri, "", item.size or 0, item.etag) for item in request.named]
    rows = [_as_row(entry) for entry in (*entries, *gone)]
    candidates = pa.concat_tables(
        [table.select(LISTING_SCHEMA.names), pa.Table.from_pylist(rows, LISTING_SCHEMA)]
    )
    wanted = _Wanted({item.uri for item in request.named})
    wanted.uris |= set(candidates.filter(_match_keys(candidates, request))["uri"].to_pylist())
    groups = labels.table["group"]
    if request.group is not None and not request.group_pattern and groups.null_count == len(groups):
        raise SettingError(
            f"--group {request.group}: no label has a group, and group_pattern is not set; name the column "
            "with --group-field, give --group-pattern, or choose the photos with --match"
        )
    # Only the wanted group is left, if there is one; which photo a label means does not depend on its group.
    own = pc.if_else(pc.equal(groups, pa.scalar(request.group, pa.large_string())), groups, None)
    position = labels.table.schema.get_field_index("group")
    labels = replace(labels, table=labels.table.set_column(position, "group", own))
    _add_labelled(wanted, _as_listings(histories, candidates), labels, poses, source_buckets)
    named = labels.table.filter(own.is_valid())["name"].to_pylist()
    wanted.labels = tuple(dict.fromkeys((*wanted.labels, *named)))
    return wanted


def _add_labelled(
    wanted: _Wanted,
    listings: Sequence[Listing],
    labels: Labels,
    poses: Mapping[int, str],
    source_buckets: Mapping[str, str],
) -> None:
    """Add the photos that labels of the group mean, and find the names of labels that mean wanted photos."""
    photos = concat_photos(listings)
    matches = match_labels(listings, photos, labels, poses, source_buckets)
    has_group = matches.names.group >= 0
    meant = pa.array(np.unique(matches.pairs.photo[has_group[matches.pairs.code]]))
    wanted.uris |= set(photos["uri"].take(meant).to_pylist())
    wanted.ambiguous = tuple(
        matches.names.name.filter(pa.array(has_group & matches.is_ambiguous)).to_pylist()
    )
    is_wanted = pc.is_in(photos["uri"], pa.array(sorted(wanted.uris), pa.large_string())).to_numpy()
    codes = np.unique(matches.pairs.code[is_wanted[matches.pairs.photo]])
    wanted.labels = tuple(matches.names.name.take(pa.array(codes)).to_pylist())


def _as_listings(histories: Mapping[Bucket, pa.Table], candidates: pa.Table) -> list[Listing]:
    """Give the candidates as listings of the sources, each address once; the others by their buckets."""
    rows: dict[Bucket, dict[str, int]] = {bucket: {} for bucket in histories}
    pairs = zip(candidates["bucket"].to_pylist(), candidates["key"].to_pylist(), strict=True)
    for row, (name, key) in enumerate(pairs):
        inside = (source for source in histories if source.name == name and key.startswith(source.prefix))
        rows.setdefault(next(inside, Bucket(name)), {}).setdefault(key, row)
    return [
        Listing(bucket, candidates.take(pa.array(list(places.values()), pa.int64())))
        for bucket, places in rows.items()
    ]


def _match_keys(table: pa.Table, request: Request) -> pa.ChunkedArray | pa.Array:
    """Tell which keys the request's expression or the pattern of groups matches."""
    if request.match is not None:
        try:
            return pc.match_substring_regex(table["key"], request.match)
        except pa.ArrowInvalid as error:
            raise SettingError(f"--match {request.match}: not accepted by RE2: {error}") from error
    if request.group is not None and request.group_pattern:
        texts = pattern_texts(table["key"], request.group_pattern)
        return pc.fill_null(pc.equal(texts, request.group), False)
    return pc.is_in(table["uri"], pa.array([item.uri for item in request.named], pa.large_string()))


def _add_contents(wanted: _Wanted, table: pa.Table, named: Sequence[Named], entries: Sequence[Entry]) -> None:
    """Add what is known of wanted photos: the content of the newest version, and what journals say."""
    seen: set[str] = set()
    older = {(item.uri, item.size, item.etag) for item in named if item.is_older}
    is_wanted = pc.is_in(table["uri"], pa.array(sorted(wanted.uris), pa.large_string()))
    for row in table.filter(pc.and_not(is_wanted, table["is_marker"])).to_pylist():
        if row["uri"] not in seen:  # versions are listed newest first
            seen.add(row["uri"])
            if (row["uri"], row["size"], row["etag"]) not in older:  # a killed run deleted the newest
                _add_content(wanted, row["uri"], row["size"], row["etag"])
    for item in named:
        if item.size is not None and item.is_older:
            wanted.known.add((item.uri, item.size, item.etag))
        elif item.size is not None:
            _add_content(wanted, item.uri, item.size, item.etag)
        if item.moved_to is not None:
            wanted.moved[item.moved_to] = (item.size or 0, item.etag)
    for entry in entries:
        if entry.uri in wanted.uris:
            _add_content(wanted, entry.uri, entry.size, entry.etag)
    for entry in entries:  # now copies too
        if entry.moved_to is not None and (
            entry.uri in wanted.uris or (entry.size, entry.etag) in wanted.contents
        ):
            wanted.moved[entry.moved_to] = (entry.size, entry.etag)


def _add_content(wanted: _Wanted, uri: str, size: int, etag: str) -> None:
    if size and etag:  # all empty objects are equal, and mean nobody
        wanted.contents.add((size, etag))
        wanted.known.add((uri, size, etag))


def _choose(table: pa.Table, wanted: _Wanted) -> tuple[list[Stored], set[str]]:
    """Choose versions by the table of this module; give them, and the addresses that count."""
    etags = pa.array([etag for _, etag in wanted.contents], pa.large_string())
    names = pa.array(sorted(wanted.uris | wanted.moved.keys()), pa.large_string())
    # Only addresses with a possible version become Python objects: a bucket may hold millions of others.
    maybe = table.filter(pc.or_(pc.is_in(table["uri"], names), pc.is_in(table["etag"], etags)))
    rows = to_stored(table.filter(pc.is_in(table["uri"], maybe["uri"].unique())))

    def is_chosen(item: Stored) -> bool:
        if item.uri in wanted.uris or (item.size, item.etag) in wanted.contents:
            return True
        size, etag = wanted.moved.get(item.uri, (-1, ""))
        # The ETag of an object uploaded in parts is made of its parts; that of its moved copy is not.
        return item.size == size and (item.etag == etag or "-" in etag)

    staying = {item.uri for item in rows if not item.is_marker and not is_chosen(item)}
    uris = wanted.uris | {item.uri for item in rows if item.uri not in staying and not item.is_marker}
    chosen = [item for item in rows if (item.uri in uris if item.is_marker else is_chosen(item))]
    return chosen, uris


def find_keys(known: Collection[tuple[str, int, str]]) -> list[bytes]:
    """Give the keys of prepared photos. known: address, size in bytes and ETag of each."""
    uris, sizes, etags = zip(*known, strict=True) if known else ((), (), ())
    return photo_keys(uris, sizes, etags)


def _as_row(entry: Entry) -> dict[str, object]:
    bucket, key = split_uri(entry.uri)
    return {
        "uri": entry.uri,
        "bucket": bucket,
        "key": key,
        "size": entry.size,
        "etag": entry.etag,
        "modified": None,
    }
