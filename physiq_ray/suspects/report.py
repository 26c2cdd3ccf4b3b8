"""Write the ranked photos: `suspects.jsonl` in the form of a label file, and a sheet of the first ones.

A person looks at the first photos, corrects `poseId`, and trains with the file as a label file. So a file
that exists is never replaced: it may hold corrections.
"""

import json
from collections.abc import Callable
from typing import Any

from physiq_ray.errors import NotFoundError, SettingError, StorageError, TooLargeError
from physiq_ray.evaluation.figures import draw_mistakes
from physiq_ray.evaluation.scores import Mistake
from physiq_ray.storage import create_bytes, join_uri, read_bytes, write_bytes
from physiq_ray.suspects.found import Suspect, Suspects

LABEL_FILE, SHEET_FILE = "suspects.jsonl", "suspects.png"
SHEET_PHOTOS = 48


def refuse_existing(output: str) -> None:
    """Raise SettingError if the folder or s3:// prefix has a suspects.jsonl; StorageError if unreachable."""
    uri = join_uri(output, LABEL_FILE)
    try:
        read_bytes(uri, max_bytes=0)  # only whether it exists: it may have hundreds of megabytes
    except NotFoundError:
        return
    except TooLargeError:
        pass
    raise SettingError(
        f"--report {output}: {uri} exists and may hold corrections; give another folder, or move the file"
    )


def write_suspects(
    suspects: Suspects, output: str, *, read: Callable[[str], bytes] = read_bytes
) -> tuple[str, ...]:
    """Write both files into a folder or s3:// prefix; give their uris. read: returns the bytes of a photo.

    Raises StorageError: the output cannot be written, or another process has written suspects.jsonl there.
    """
    labels, sheet = join_uri(output, LABEL_FILE), join_uri(output, SHEET_FILE)
    lines = (json.dumps(to_record(photo, suspects), ensure_ascii=False) + "\n" for photo in suspects.ranked)
    if not create_bytes("".join(lines).encode(), labels):
        raise StorageError(f"write {labels}: it was written by another process just now, and is kept")
    first = [
        Mistake(
            photo.uri,
            suspects.name(photo.pose_id),
            suspects.name(photo.suggested_pose_id),
            photo.suggested_probability,
            photo.suggested_pose_id,
        )
        for photo in suspects.ranked[:SHEET_PHOTOS]
    ]
    write_bytes(draw_mistakes(first, read), sheet)
    return labels, sheet


def to_record(photo: Suspect, suspects: Suspects) -> dict[str, Any]:
    """Give a line of suspects.jsonl.

    As a label file, its uri names exactly this photo, and its group keeps the photos of a group together. The
    other fields, whose names are no columns of label files, are for the reader.
    """
    fold = {"fold": photo.fold} if photo.fold else {}
    return {
        "poseId": photo.pose_id,
        "uri": photo.uri,
        "group": photo.group,
        "rank": photo.rank,
        "likelyWrong": photo.is_likely_wrong,
        "labelledPose": suspects.name(photo.pose_id),
        "labelledProbability": round(photo.probability, 6),
        "suggestedPoseId": photo.suggested_pose_id,
        "suggestedPose": suspects.name(photo.suggested_pose_id),
        "suggestedProbability": round(photo.suggested_probability, 6),
        **fold,
    }
