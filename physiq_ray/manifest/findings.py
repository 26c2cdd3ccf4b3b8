"""Write the parts of the report about labels and sources: counts, and names in quotes."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.errors import quoted
from physiq_ray.manifest.exact import spans
from physiq_ray.manifest.match import Matches
from physiq_ray.manifest.report import Counted, SourceReport
from physiq_ray.storage import Listing, are_undecodable, are_waiting

EXAMPLES = 10


def find_conflicts(photos: pa.Table, matches: Matches) -> tuple[str, ...]:
    """Name the photos whose labels contradict each other, or that an ambiguous label may mean."""
    rows = np.flatnonzero(matches.is_conflict)
    code = matches.alike_code[rows]
    uris = photos["uri"].take(pa.array(rows)).to_pylist()
    names = matches.names.name.take(pa.array(code, mask=code < 0)).to_pylist()
    return tuple(
        f"{quoted(uri)}: labelled with different poses"
        if name is None
        else f"{quoted(uri)}: label {quoted(name)} may mean this photo or another, and names neither exactly"
        for uri, name in zip(uris, names, strict=True)
    )


def find_loose(photos: pa.Table, matches: Matches) -> Counted:
    """Count the labels that spell the name of their photo differently."""
    likeness = matches.likeness
    if likeness is None:
        return Counted()
    place = np.flatnonzero(matches.is_loose[likeness.codes])
    some = place[:EXAMPLES]
    names = matches.names.name.take(pa.array(likeness.codes[some])).to_pylist()
    uris = photos["uri"].take(pa.array(likeness.photo[some])).to_pylist()
    return Counted(
        len(place),
        tuple(f"{quoted(name)} means {quoted(uri)}" for name, uri in zip(names, uris, strict=True)),
    )


def find_shared(matches: Matches) -> Counted:
    """Count the labels whose name fits several photos."""
    count = np.bincount(matches.pairs.code, minlength=len(matches.names))
    codes = np.flatnonzero(count > 1)
    names = matches.names.name.take(pa.array(codes[:EXAMPLES])).to_pylist()
    return Counted(
        len(codes),
        tuple(f"{quoted(name)}: {count[code]} photos" for name, code in zip(names, codes, strict=False)),
    )


def find_undecodable(photos: pa.Table) -> tuple[str, ...]:
    """Name the photos in a format that cannot be decoded here."""
    return tuple(photos["uri"].filter(are_undecodable(photos["key"])).to_pylist())


def report_sources(
    listings: Sequence[Listing], photos: pa.Table, matches: Matches
) -> tuple[SourceReport, ...]:
    """Count the photos of each source."""
    rows = iter(spans(listings))
    is_waiting = are_waiting(photos["key"]).to_numpy()
    reports = []
    for listing in listings:
        if listing.table is None:
            reports.append(SourceReport(str(listing.source), error=str(listing.error)))
            continue
        ((_, span),) = islice(rows, 1)
        reports.append(
            SourceReport(
                str(listing.source),
                total=span.stop - span.start,
                labelled=int(np.count_nonzero(matches.is_known[span])),
                unusable=int(np.count_nonzero(matches.is_unusable[span])),
                waiting=int(np.count_nonzero(is_waiting[span] & ~matches.is_known[span])),
                bytes=pc.sum(photos["size"].slice(span.start, span.stop - span.start)).as_py() or 0,
                num_others=listing.num_others,
            )
        )
    return tuple(reports)
