"""Count and check photos and labels."""

from physiq_ray.api.display import Progress, counting, make_display
from physiq_ray.auditing import audit_manifest
from physiq_ray.auditing.count import Audit
from physiq_ray.config import SplitSettings
from physiq_ray.labels import load_configured_poses
from physiq_ray.manifest import survey_photos
from physiq_ray.near import load_hash


def audit(
    settings: SplitSettings,
    *,
    check_photos: bool = False,
    near_duplicates: bool = False,
    progress: Progress = True,
    debug: bool = False,
) -> Audit:
    """Count and check photos and labels; `Audit.manifest` is what a training would use.

    `manifest.report.problem` is the error with which a training would refuse this manifest. check_photos:
    read each labelled photo. near_duplicates: compare them, too. debug: show Ray's log, which runs only if
    the settings group near-duplicates.
    Raises SettingError, LabelError.
    """
    if near_duplicates:
        load_hash()  # a missing package is reported before the listing, which may take long
    poses = load_configured_poses(settings)
    display = make_display(progress)
    hash_photos = None
    if settings.group_near_duplicates == "yes":
        from physiq_ray.cluster import check_cluster, connect  # Ray, which no other audit needs
        from physiq_ray.ingest import hashing

        check_cluster()
        hash_photos = hashing(
            settings, lambda: connect(debug=debug), on_progress=counting(display, "comparing")
        )
    with display.live():
        manifest = survey_photos(settings, poses, hash_photos=hash_photos)
    reads = check_photos or near_duplicates
    with display.live():
        return audit_manifest(
            manifest,
            poses,
            check_photos=reads,
            near_duplicates=near_duplicates,
            on_progress=counting(display, "reading"),
        )
