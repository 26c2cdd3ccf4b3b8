"""Count and check photos and labels."""

from physiq_ray.api.display import Progress, counting, make_display
from physiq_ray.auditing import audit_manifest
from physiq_ray.auditing.count import Audit
from physiq_ray.config import Settings, SplitSettings
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
    read each labelled photo with Ray, and keep it on disk if a training with these settings would; what
    SplitSettings lack has its default. near_duplicates: compare the photos, too. debug: show Ray's log.
    Raises SettingError, LabelError; ClusterError, StorageError: only if photos are read.
    """
    if near_duplicates:
        load_hash()  # a missing package is reported before the listing, which may take long
    poses = load_configured_poses(settings)
    display = make_display(progress)
    hash_photos = read_photos = None
    reads = check_photos or near_duplicates
    if reads or settings.group_near_duplicates == "yes":
        from physiq_ray.cluster import check_cluster, connect  # Ray, which no other audit needs
        from physiq_ray.ingest import checking, hashing

        def join_cluster() -> None:
            connect(debug=debug)

        check_cluster()
        hash_photos = hashing(settings, join_cluster, on_progress=counting(display, "comparing"))
        if reads:
            full = settings if isinstance(settings, Settings) else Settings()
            read_photos = checking(full, join_cluster, note=display.note)
    with display.live():
        manifest = survey_photos(settings, poses, hash_photos=hash_photos)
    with display.live():
        return audit_manifest(
            manifest,
            poses,
            read_photos=read_photos,
            near_duplicates=near_duplicates,
            on_progress=counting(display, "reading"),
        )
