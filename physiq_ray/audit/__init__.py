"""The state of the data before anyone trains on it or deletes any of it.

In come a manifest and, where wished, the photos themselves; out come an `Audit`, its text and a contact
sheet. Counting reads the listing only. Checking photos fetches and decodes every labelled one, in threads,
about as fast as Pillow decodes; near-duplicates are found on the way by perceptual hash. A photo that no
answer came for is not called bad: the audit is then incomplete, and says so.
"""

import io
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from physiq_ray.errors import PhotoError, SettingError, StorageError, UnreachableError, quoted
from physiq_ray.images import UInt8Array, decode_image, decode_square
from physiq_ray.manifest import SPLITS, Manifest, describe_manifest
from physiq_ray.storage import read_bytes, write_bytes
from physiq_ray.storage.etag import failed_step

CHECK_THREADS = 16
CHECKS_AHEAD = 4 * CHECK_THREADS  # of a million photos, no more are waiting to be read at a time
GIVE_UP_AFTER = 64  # photos in a row without an answer: each takes 45 s, and the next would not fare better
HASH_PX = 128  # decoded to, before the hash makes it 32 × 32
HASH_BITS = 64
NEAR_BITS = 4  # of 64 that may differ between two photos taken for one
SHEET_COLUMNS = 8
UNEVEN = 3.0  # times as many photos as another pose: worth a word
EXAMPLES = 10


@dataclass(frozen=True)
class PoseCount:
    """Photos of one pose by split; share is of all usable photos."""

    pose_id: int
    name: str
    train: int
    validation: int
    share: float
    test: int = 0

    @property
    def total(self) -> int:
        """Photos in all."""
        return self.train + self.validation + self.test


@dataclass(frozen=True)
class UnreadablePhoto:
    """A photo that is bad (step "decode"), or could not be checked.

    The step is then "fetch", or "changed" or "gone" if it is not what was listed any more.
    """

    uri: str
    step: str
    error: str


@dataclass(frozen=True)
class PhotoCheck:
    """What reading every photo brought to light.

    near_duplicates: (uri, uri, bits of 64 in which their hashes differ), one photo a content; None where it
    was not looked for, or not among all. gave_up: why the check ended before the last photo, if it did.
    """

    num_checked: int
    unreadable: tuple[UnreadablePhoto, ...]
    near_duplicates: tuple[tuple[str, str, int], ...] | None
    gave_up: str | None = None

    def of_step(self, step: str) -> tuple[UnreadablePhoto, ...]:
        """Give the photos that failed in one step."""
        return tuple(photo for photo in self.unreadable if photo.step == step)


@dataclass(frozen=True)
class Audit:
    """The figures of one audit. copies: uris of equal content, a tuple a content."""

    manifest: Manifest
    poses: tuple[PoseCount, ...]
    copies: tuple[tuple[str, ...], ...]
    check: PhotoCheck | None

    @property
    def imbalance(self) -> float | None:
        """How many times as many photos the largest pose has as the smallest; None without a photo."""
        counts = [pose.total for pose in self.poses]
        return max(counts) / min(counts) if counts else None

    @property
    def num_near_across(self) -> int | None:
        """Pairs that look nearly the same, on different sides of the split; None: not looked for."""
        if self.check is None or self.check.near_duplicates is None:
            return None
        table = self.manifest.table
        split = dict(zip(table["uri"].to_pylist(), table["split"].to_pylist(), strict=True))
        return len([a for a, b, _ in self.check.near_duplicates if split[a] != split[b]])

    @property
    def not_looked_at(self) -> tuple[str, ...]:
        """What the audit says nothing of, a sentence each: sources not listed, photos not fetched."""
        sentences = [
            f"audited without {source.source}: {source.error}"
            for source in self.manifest.report.failed_sources
        ]
        if self.check is None:
            return tuple(sentences)
        if not_fetched := self.check.of_step("fetch"):
            sentences.append(f"{len(not_fetched)} photos not fetched, the first: {not_fetched[0].error}")
        if others := (*self.check.of_step("changed"), *self.check.of_step("gone")):
            sentences.append(
                f"{len(others)} photos changed or disappeared since they were listed, the first: "
                f"{others[0].error}"
            )
        if self.check.gave_up is not None:
            sentences.append(self.check.gave_up)
        return tuple(sentences)

    def to_dict(self) -> dict[str, Any]:
        """Give everything as plain values, for JSON."""
        report = self.manifest.report
        return {
            "sources": [asdict(source) | {"unlabelled": source.unlabelled} for source in report.sources],
            "poses": [asdict(pose) for pose in self.poses],
            "imbalance": self.imbalance,
            "conflicts": list(report.conflicts),
            "labels_without_photo": list(report.labels_without_photo),
            "ambiguous": list(report.ambiguous),
            "loose": asdict(report.loose),
            "shared_names": asdict(report.shared_names),
            "no_known_pose": report.num_poseless,
            "by_folder": report.num_by_folder,
            "split_conflicts": list(report.split_conflicts),
            "unknown_poses": list(report.unknown_poses),
            "malformed": list(report.malformed),
            "thin_poses": list(report.thin_poses),
            "poses_without_photo": list(report.poses_without_photo),
            "undecodable": list(report.undecodable),
            "problem": str(report.problem) if report.problem else None,
            "copies": [list(uris) for uris in self.copies],
            "not_looked_at": list(self.not_looked_at),
            "check": asdict(self.check) if self.check else None,
            "near_duplicates_across_splits": self.num_near_across,
        }

    def describe(self) -> Iterator[str]:
        """Give the report for a reader, line by line."""
        yield from describe_manifest(self.manifest, examples=EXAMPLES)
        yield ""
        has_test = any(pose.test for pose in self.poses)  # most label files say nothing of it
        yield (
            f"{'pose':>28}  {'train':>7}  {'validation':>10}  {'test':>6}  {'share':>6}"
            if has_test
            else f"{'pose':>28}  {'train':>7}  {'validation':>10}  {'share':>6}"
        )
        for pose in self.poses:
            name, test = f"{pose.name} ({pose.pose_id})", f"{pose.test:>6}  " if has_test else ""
            yield f"{name:>28}  {pose.train:>7}  {pose.validation:>10}  {test}{pose.share:>6.1%}"
        if (ratio := self.imbalance) is not None:
            uneven = " – uneven: expect the rare poses to be told worse" if ratio > UNEVEN else ""
            yield f"the largest pose has {ratio:.1f} times the photos of the smallest{uneven}"
        yield from _listed(
            "contents stored more than once", [" = ".join(map(quoted, uris)) for uris in self.copies]
        )
        if self.check is None:
            return
        bad, not_fetched = self.check.of_step("decode"), self.check.of_step("fetch")
        yield from _listed(
            "photos cannot be decoded", [f"{quoted(photo.uri)}: {photo.error}" for photo in bad]
        )
        if not_fetched:
            yield from _listed("photos could not be fetched", [photo.error for photo in not_fetched])
        if self.check.near_duplicates is not None:
            pairs = [
                f"{quoted(a)} ~ {quoted(b)} ({bits} of {HASH_BITS} bits)"
                for a, b, bits in self.check.near_duplicates
            ]
            yield from _listed("pairs of photos look nearly the same", pairs)
            if across := self.num_near_across:
                yield (
                    f"  {across} of them lie on both sides of the split: the validation accuracy will "
                    "flatter; keep them together with --group-pattern"
                )


def audit_manifest(
    manifest: Manifest,
    pose_names: Mapping[int, str],
    *,
    check_photos: bool = False,
    near_duplicates: bool = False,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Audit:
    """Count, and where wished read every photo (near_duplicates implies it).

    Raises SettingError: near_duplicates without the ImageHash package.
    """
    table = manifest.table
    poses = []
    for pose_id in manifest.class_mapping.pose_ids:
        split = table["split"].filter(pc.equal(table["pose_id"], pose_id))
        train, validation, test = (pc.sum(pc.equal(split, name)).as_py() for name in SPLITS)
        share = len(split) / table.num_rows
        poses.append(PoseCount(pose_id, pose_names.get(pose_id, ""), train, validation, share, test))
    copies, check = _find_copies(manifest), None
    if check_photos or near_duplicates:
        image_hash = load_hash() if near_duplicates else None
        check = _check(_versions(table), copies, image_hash, on_progress)
    return Audit(manifest, tuple(poses), copies, check)


def write_contact_sheet(
    manifest: Manifest, pose_names: Mapping[int, str], uri: str, *, seed: int = 42
) -> None:
    """Write a PNG with some photos of each pose in a row of their own, so that wrong labels are seen.

    The photos are drawn at random, the same for the same seed; one that cannot be read leaves its reason.
    Raises StorageError: the sheet cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes half a second
    from matplotlib.figure import Figure

    rng = np.random.default_rng(seed)
    rows = []
    for pose_id in manifest.class_mapping.pose_ids:
        of_pose = _versions(manifest.table.filter(pc.equal(manifest.table["pose_id"], pose_id)))
        drawn = sorted(rng.choice(len(of_pose), min(SHEET_COLUMNS, len(of_pose)), replace=False))
        rows.append([of_pose[index] for index in drawn])
    with ThreadPoolExecutor(CHECK_THREADS) as threads:
        shown = list(threads.map(_look, [version for row in rows for version in row]))
    figure = Figure(figsize=(1.5 * SHEET_COLUMNS + 1.6, 2.1 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), SHEET_COLUMNS, squeeze=False)
    photos = iter(shown)
    plain: dict[str, Any] = {"parse_math": False}  # between two $ of a name stands no formula
    for pose_id, row, row_axes in zip(manifest.class_mapping.pose_ids, rows, axes, strict=True):
        for cell in row_axes:
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_visible(False)
        row_axes[0].set_ylabel(f"{pose_names.get(pose_id, '')}\n(id {pose_id})", fontsize=10, **plain)
        for cell, (photo_uri, _) in zip(row_axes, row, strict=False):
            photo = next(photos)
            if isinstance(photo, str):
                cell.text(*(0.5, 0.5, photo[:60]), **plain, fontsize=5, ha="center", va="center", wrap=True)
            else:
                cell.imshow(photo)
            cell.set_title(photo_uri.rpartition("/")[2][-24:], fontsize=5, **plain)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    write_bytes(buffer.getvalue(), uri)


def find_near(hashes: npt.NDArray[np.uint64], most_bits: int) -> list[tuple[int, int, int]]:
    """Find pairs of 64-bit hashes that differ in at most most_bits bits: (row, row, bits), in order.

    Of most_bits + 1 parts of a hash one must be equal in such a pair, so only rows that share a part are
    compared; a thousand photos of one wall would still be compared with each other.
    """
    bounds = np.linspace(0, HASH_BITS, most_bits + 2).astype(int)
    found: dict[tuple[int, int], int] = {}
    for low, high in itertools.pairwise(bounds):
        part = (hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(part, kind="stable")
        starts = np.flatnonzero(np.diff(part[order], prepend=part[order[:1]] + np.uint64(1)))
        for rows in np.split(order, starts[1:]):
            for position, row in enumerate(rows[:-1]):
                others = rows[position + 1 :]
                bits = np.bitwise_count(hashes[row] ^ hashes[others])
                for other, differ in zip(others[bits <= most_bits], bits[bits <= most_bits], strict=True):
                    found[min(int(row), int(other)), max(int(row), int(other))] = int(differ)
    return [(a, b, bits) for (a, b), bits in sorted(found.items())]


def _find_copies(manifest: Manifest) -> tuple[tuple[str, ...], ...]:
    table = manifest.table.filter(pc.not_equal(manifest.table["etag"], ""))
    counts = table.group_by(["size", "etag"]).aggregate([("uri", "list"), ("uri", "count")])
    repeated = counts.filter(pc.greater(counts["uri_count"], 1))["uri_list"].to_pylist()
    return tuple(sorted(tuple(sorted(uris)) for uris in repeated))


Hash = Callable[[Image.Image], Any]


def load_hash() -> Hash:
    """Give the perceptual hash.

    Raises SettingError: the ImageHash package is not installed.
    """
    try:
        from imagehash import phash
    except ImportError as error:
        raise SettingError(
            "near-duplicates need the ImageHash package: pip install 'physiq-ray[audit]'"
        ) from error
    return phash


@dataclass(frozen=True)
class _Checked:
    """One photo that was read: its hash, or what failed."""

    uri: str
    bits: int = 0
    failure: UnreadablePhoto | None = None
    is_unreachable: bool = False


Version = tuple[str, str]  # uri and listed etag


def _versions(table: pa.Table) -> list[Version]:
    return list(zip(table["uri"].to_pylist(), table["etag"].to_pylist(), strict=True))


def _check(
    photos: Sequence[Version],
    copies: Sequence[Sequence[str]],
    image_hash: Hash | None,
    on_progress: Callable[[int, int], None],
) -> PhotoCheck:
    def check(photo: Version) -> _Checked:
        uri, etag = photo
        try:
            pixels = decode_square(read_bytes(uri, etag=etag), size_px=HASH_PX)
        except StorageError as error:
            failure = UnreadablePhoto(uri, failed_step(error), str(error))
            return _Checked(uri, failure=failure, is_unreachable=isinstance(error, UnreachableError))
        except PhotoError as error:
            return _Checked(uri, failure=UnreadablePhoto(uri, "decode", str(error)))
        return _Checked(uri, int(str(image_hash(Image.fromarray(pixels))), 16) if image_hash else 0)

    content = {uri: number for number, same in enumerate(copies) for uri in same}
    unreadable = []
    hashes: dict[int | str, tuple[str, int]] = {}  # by content: a thousand copies make no million pairs
    num_checked = num_unreachable = 0
    gave_up = None
    with closing(_call_side_by_side(check, photos)) as results:
        for num_checked, checked in enumerate(results, 1):
            on_progress(num_checked, len(photos))
            num_unreachable = num_unreachable + 1 if checked.is_unreachable else 0
            if checked.failure is None:
                hashes.setdefault(content.get(checked.uri, checked.uri), (checked.uri, checked.bits))
                continue
            unreadable.append(checked.failure)
            if num_unreachable == GIVE_UP_AFTER:
                gave_up = (
                    f"gave up after {num_checked} of {len(photos)} photos: no answer for {GIVE_UP_AFTER} in "
                    f"a row, the last {checked.failure.error}"
                )
                break
    near = None
    if image_hash is not None and gave_up is None:
        hashed = list(hashes.values())
        found = find_near(np.array([bits for _, bits in hashed], np.uint64), NEAR_BITS)
        near = tuple((hashed[a][0], hashed[b][0], bits) for a, b, bits in found)
    return PhotoCheck(num_checked, tuple(unreadable), near, gave_up)


def _call_side_by_side(
    call: Callable[[Version], _Checked], photos: Sequence[Version]
) -> Generator[_Checked, None, None]:
    """Call for each photo in threads and give the results in order; closed early, start no more."""
    threads = ThreadPoolExecutor(CHECK_THREADS)
    ahead: deque[Future[_Checked]] = deque()
    try:
        for photo in photos:
            if len(ahead) == CHECKS_AHEAD:
                yield ahead.popleft().result()
            ahead.append(threads.submit(call, photo))
        while ahead:
            yield ahead.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


def _look(photo: Version) -> UInt8Array | str:
    uri, etag = photo
    try:
        return decode_image(read_bytes(uri, etag=etag), min_side_px=200)
    except (StorageError, PhotoError) as error:
        return str(error)


def _listed(what: str, items: Sequence[str]) -> Iterator[str]:
    yield f"{len(items)} {what}"
    yield from (f"  {item}" for item in items[:EXAMPLES])
    if len(items) > EXAMPLES:
        yield f"  and {len(items) - EXAMPLES} more"
