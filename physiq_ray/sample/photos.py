"""Drawn photos for two buckets, with the flaws of real buckets.

`write_sample_photos` fills a folder: one sub-folder per bucket, `db_labels.json`, and a photo of an athlete
who is in neither bucket. The flaws are intended: many photos are stored rotated, with an EXIF tag for the
orientation, as most phones do; some photos have no label, some show no person, some are in both buckets under
two names, and one is truncated. Some photos show no known pose, and their labels say so. The photos depend
only on the seed, not on the number of processes, and those of poses not on the number of those without.
Drawing a photo takes about 50 ms on one core.
"""

import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from PIL import ExifTags, Image

from physiq_ray.machine import usable_cpus
from physiq_ray.sample.figures import Athlete, draw_empty_photo, draw_photo
from physiq_ray.sample.poseless import POSELESS_KINDS, PoselessKind, draw_poseless_photo
from physiq_ray.sample.skeletons import POSE_IDS

CHECKIN_BUCKET: Final = "checkin-poses"
WORKOUT_BUCKET: Final = "workout-images"
SOURCES: Final = {CHECKIN_BUCKET: "checkins", WORKOUT_BUCKET: "training"}

# The shapes of phone photos at a fraction of their resolution; larger sizes would double the drawing time.
_SIZES_PX: Final = ((720, 960), (600, 800), (540, 960), (810, 1080), (960, 720))
_SIZE_SHARES: Final = (0.30, 0.46, 0.16, 0.03, 0.05)
_ORIENTATION_SHARES: Final = (0.46, 0.05, 0.08, 0.03, 0.03, 0.23, 0.03, 0.09)  # EXIF 1 … 8
_UNTURN: Final = {  # EXIF orientation → how the upright photo was transposed
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
_FIRST_MS: Final = 1_757_400_000_000  # 9 September 2025, as in mappings/db_labels.json


@dataclass(frozen=True)
class SamplePhotos:
    """The places of the photos, and their numbers.

    num_labelled: includes duplicates, truncated photos and those of no known pose.
    """

    buckets: dict[str, Path]
    labels: Path
    holdout: Path
    holdout_pose_id: int
    num_labelled: int
    num_unlabelled: int
    num_duplicates: int
    num_truncated: int
    num_poseless: int


@dataclass(frozen=True)
class _Shot:
    """All values that determine the bytes of one photo."""

    path: Path
    pose_id: int | None  # None: a photo of `poseless`, or of a background only
    athlete_seed: tuple[int, ...]
    photo_seed: tuple[int, ...]
    size: tuple[int, int]
    orientation: int
    quality: int
    is_truncated: bool = False
    poseless: PoselessKind | None = None


@dataclass(frozen=True)
class _Plan:
    shots: list[_Shot]
    copies: list[tuple[Path, Path]]
    records: list[dict[str, object]]
    holdout: _Shot
    num_unlabelled: int


def write_sample_photos(
    folder: Path,
    *,
    num_athletes: int = 40,
    photos_per_pose: int = 2,
    seed: int = 0,
    num_unlabelled: int = 24,
    num_duplicates: int = 6,
    num_poseless: int = 0,
    num_processes: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> SamplePhotos:
    """Draw `num_athletes` × 8 poses × `photos_per_pose` labelled photos, the unlabelled ones and duplicates.

    A third of the unlabelled photos show no person. num_poseless: the number of further photos that show no
    known pose and are labelled `"poseId": null`; their kinds (see `poseless`) and their athletes are equally
    frequent, except for a remainder. num_processes: one per core if None; with 1, this process
    draws. on_progress: called with the number of photos done and the total. Ctrl-C ends the work after the
    current photos. Existing files with the same names are overwritten.
    """
    plan = _plan_photos(
        folder, num_athletes, photos_per_pose, seed, num_unlabelled, num_duplicates, num_poseless
    )
    for bucket in SOURCES:
        (folder / bucket).mkdir(parents=True, exist_ok=True)
    for parent in {shot.path.parent for shot in plan.shots} | {copy.parent for _, copy in plan.copies}:
        parent.mkdir(parents=True, exist_ok=True)
    shots = [*plan.shots, plan.holdout]
    for done, _ in enumerate(_write_all(shots, num_processes or usable_cpus()), start=1):
        if on_progress is not None:
            on_progress(done, len(shots))
    for original, copy in plan.copies:
        copy.write_bytes(original.read_bytes())
    labels = folder / "db_labels.json"
    lines = ",\n".join(f"  {json.dumps(record)}" for record in plan.records)
    labels.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    assert plan.holdout.pose_id is not None
    return SamplePhotos(
        buckets={bucket: folder / bucket for bucket in SOURCES},
        labels=labels,
        holdout=plan.holdout.path,
        holdout_pose_id=plan.holdout.pose_id,
        num_labelled=len(plan.records),
        num_unlabelled=plan.num_unlabelled,
        num_duplicates=len(plan.copies),
        num_truncated=sum(shot.is_truncated for shot in plan.shots),
        num_poseless=num_poseless,
    )


def _plan_photos(
    folder: Path,
    num_athletes: int,
    photos_per_pose: int,
    seed: int,
    num_unlabelled: int,
    num_duplicates: int,
    num_poseless: int,
) -> _Plan:
    """Make all random choices except those of the drawing, in a fixed order."""
    rng = np.random.default_rng([seed, 0])
    clock_ms, number = _FIRST_MS, int(rng.integers(1, 2000))

    def name() -> str:
        nonlocal clock_ms, number
        clock_ms += int(rng.integers(600, 900_000))  # it always increases, so every name is unique
        number = number % 9999 + 1
        return f"{clock_ms}-IMG{number:04d}.jpeg"

    def shot(path: Path, pose_id: int | None, athlete: int) -> _Shot:
        return _Shot(
            path=path,
            pose_id=pose_id,
            athlete_seed=(seed, 1, athlete),
            photo_seed=(seed, 2, clock_ms),
            size=_SIZES_PX[int(rng.choice(len(_SIZES_PX), p=_SIZE_SHARES))],
            orientation=1 + int(rng.choice(8, p=_ORIENTATION_SHARES)),
            quality=int(rng.integers(84, 94)),
        )

    def place(athlete: int, bucket: str | None = None) -> Path:
        chosen = bucket or (CHECKIN_BUCKET if rng.random() < 0.6 else WORKOUT_BUCKET)
        return folder / chosen / f"athlete-{athlete:02d}" / name()

    labelled = [
        shot(place(athlete), pose_id, athlete)
        for athlete in range(num_athletes)
        for _ in range(photos_per_pose)
        for pose_id in POSE_IDS
    ]
    picked = rng.permutation(len(labelled))
    broken, doubled = int(picked[0]), sorted(int(index) for index in picked[1 : 1 + num_duplicates])
    labelled[broken] = replace(labelled[broken], is_truncated=True)
    copies = []
    for index in doubled:
        original = labelled[index].path
        bucket, athlete = original.parts[-3], int(original.parts[-2].removeprefix("athlete-"))
        other = WORKOUT_BUCKET if bucket == CHECKIN_BUCKET else CHECKIN_BUCKET
        copies.append((original, place(athlete, other)))
    unlabelled = []
    for index in range(num_unlabelled):
        athlete = int(rng.integers(num_athletes))
        pose_id = None if index % 3 == 0 else int(rng.choice(POSE_IDS))
        unlabelled.append(shot(place(athlete), pose_id, athlete))
    records = [_record(shot.path, shot.pose_id) for shot in labelled]
    records += [
        _record(copy, labelled[index].pose_id) for index, (_, copy) in zip(doubled, copies, strict=True)
    ]
    name()
    holdout = shot(folder / "holdout.jpeg", int(rng.choice(POSE_IDS)), num_athletes)
    # All choices above are the same for any num_poseless, because these come last.
    poseless: list[_Shot] = []
    for index in range(num_poseless):
        if index % num_athletes == 0:
            athletes = rng.permutation(num_athletes)
        path = place(int(athletes[index % num_athletes]), _bucket_of(index // len(POSELESS_KINDS)))
        kind = POSELESS_KINDS[index % len(POSELESS_KINDS)]
        poseless.append(replace(shot(path, None, int(athletes[index % num_athletes])), poseless=kind))
    records += [_record(shot.path, None) for shot in poseless]
    return _Plan([*labelled, *unlabelled, *poseless], copies, records, holdout, num_unlabelled)


def _bucket_of(index: int) -> str:
    """Give three of five photos to the first bucket: the share that the photos of poses have on average."""
    return CHECKIN_BUCKET if index % 5 in (0, 2, 4) else WORKOUT_BUCKET


def _record(path: Path, pose_id: int | None) -> dict[str, object]:
    return {"source": SOURCES[path.parts[-3]], "poseId": pose_id, "s3Filename": path.name}


def _write_all(shots: list[_Shot], num_processes: int) -> Iterator[None]:
    """Write every shot and yield after each; no process is left at the end, even after an error."""
    if num_processes == 1:
        for shot in shots:
            _write(shot)
            yield
        return
    # spawn, because a fork would copy the locks of the caller's threads (Ray, boto3).
    pool = ProcessPoolExecutor(num_processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        with _sigint_blocked():
            futures: list[Future[None]] = [pool.submit(_write, shot) for shot in shots]
        for future in as_completed(futures):
            future.result()
            yield
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Make the children that start in this block ignore Ctrl-C.

    The terminal sends it to all processes, but this process ends its children in order.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _write(shot: _Shot) -> None:
    rng = np.random.default_rng(shot.photo_seed)
    athlete = Athlete.random(np.random.default_rng(shot.athlete_seed))
    if shot.poseless is not None:
        upright = draw_poseless_photo(shot.poseless, athlete, rng, shot.size)
    elif shot.pose_id is None:
        upright = draw_empty_photo(rng, shot.size)
    else:
        upright = draw_photo(shot.pose_id, athlete, rng, shot.size)
    data = encode_jpeg(upright, orientation=shot.orientation, quality=shot.quality)
    if shot.is_truncated:
        data = data[: len(data) // 2]
    shot.path.write_bytes(data)


def encode_jpeg(upright: Image.Image, *, orientation: int, quality: int) -> bytes:
    """Store a photo rotated or mirrored, with the EXIF orientation (1 … 8) that makes it upright again."""
    stored = upright.transpose(_UNTURN[orientation]) if orientation in _UNTURN else upright
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Software] = "physiq_ray sample"
    buffer = BytesIO()
    stored.save(buffer, "JPEG", quality=quality, exif=exif)
    return buffer.getvalue()
