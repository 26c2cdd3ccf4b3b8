"""The folder of a run: its lock, its record, Ray's checkpoints and their list.

    <storage>/<name>/run.json                           settings, what was left out, the poses' names
    <storage>/<name>/manifest.parquet                   the photos and their split
    <storage>/<name>/lock-0001.json                     who trains the run (see `lock`)
    <storage>/<name>/epoch-0001/                        Ray's checkpoint of an epoch (see `state`)
    <storage>/<name>/checkpoint_manager_snapshot.json   Ray's list of the checkpoints (see `snapshot`)

A resumed run reads the record instead of listing the sources again, because the split must not change
during the training. The manifest is written last: if it is there, the record is complete.
"""

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from physiq_ray.config import Settings, load_settings
from physiq_ray.errors import NotFoundError, SettingError, TrainingError
from physiq_ray.machine import check_writable
from physiq_ray.manifest import MANIFEST_FILE, Manifest
from physiq_ray.storage import absolute_uri, join_uri, read_bytes, write_bytes
from physiq_ray.training.lock import locked_run
from physiq_ray.training.record import FIXED_SETTINGS, RunRecord, stored_settings
from physiq_ray.training.snapshot import has_checkpoint

RECORD_FILE = "run.json"


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its state; storage: as the setting gives it, a path or s3:// address."""

    storage: str
    name: str

    @property
    def uri(self) -> str:
        """The folder's absolute path or s3:// address."""
        return join_uri(absolute_uri(self.storage), self.name)

    @property
    def resume_command(self) -> str:
        """The command line that resumes the run."""
        return self.resumed_by("train")

    def resumed_by(self, command: str) -> str:
        """Give the command line that resumes the run with a command, such as train."""
        default = Settings.model_fields["storage"].get_default()
        where = "" if self.storage == default else f" --storage {shlex.quote(self.storage)}"
        return f"physiq-ray {command} --resume --run-name {self.name}{where}"

    @contextmanager
    def locked(self, note: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """Be the only process that trains the run while inside; note says why it takes a while.

        Raises TrainingError: another process trains it, or has taken over (which interrupts what runs
        inside). StorageError: the lock cannot be read or written.
        """
        check_writable("storage", self.storage)
        with locked_run(self.uri, self.name, note):
            yield

    def is_started(self) -> bool:
        """Tell whether a run of this name has been started; raises StorageError if it could not look."""
        try:
            read_bytes(join_uri(self.uri, MANIFEST_FILE))
        except NotFoundError:
            return False
        return True

    def refuse_started(self) -> None:
        """Raise TrainingError if a run of this name has been started; StorageError if it could not look."""
        if self.is_started():
            raise TrainingError(
                f"run {self.name!r} exists in {self.storage}; resume it with --resume, or give another "
                "--run-name"
            )

    def has_checkpoint(self) -> bool:
        """Tell whether the run can resume, after repairing Ray's list of checkpoints if it is torn.

        Raises TrainingError: torn, and no copy of it. StorageError: could not look.
        """
        return has_checkpoint(self.uri)

    def resumed_settings(self, settings: Settings) -> Settings:
        """Give the settings that the run was started with; those that are set now replace them.

        Raises TrainingError: no such run, or a damaged record. SettingError: another value of one of
        FIXED_SETTINGS, with both.
        """
        saved = self._read_content()["settings"]
        values = stored_settings(settings, self.name)
        given = {name: value for name, value in values.items() if name in settings.model_fields_set}
        for name in FIXED_SETTINGS:
            if name in given and name in saved and given[name] != saved[name]:
                raise SettingError(
                    f"{name}={given[name]}: the run was started with {name}={saved[name]} and keeps it; "
                    "leave the setting out, or start a new run with another --run-name"
                )
        known = {name: value for name, value in saved.items() if name in Settings.model_fields}
        return load_settings(given, environment={}, defaults=known)

    def save_record(self, record: RunRecord, settings: Settings) -> None:
        """Write settings, what was left out, and the manifest.

        A resumed run writes them again, so that the next one resumes with the settings that were set now.
        """
        content = {
            "settings": stored_settings(settings, self.name),
            "num_skipped": record.num_skipped,
            "failed_sources": list(record.failed_sources),
            "pose_names": {str(pose_id): name for pose_id, name in record.pose_names.items()},
        }
        write_bytes((json.dumps(content, indent=2) + "\n").encode(), join_uri(self.uri, RECORD_FILE))
        write_bytes(record.manifest.to_parquet(), join_uri(self.uri, MANIFEST_FILE))

    def load_record(self) -> RunRecord:
        """Read what `save_record` wrote.

        Raises TrainingError: no such run, or a damaged record.
        """
        content, uri = self._read_content(), join_uri(self.uri, MANIFEST_FILE)
        try:
            manifest = Manifest.from_parquet(read_bytes(uri), name=uri)
        except NotFoundError as error:
            raise self._nothing_to_resume() from error
        names = {int(pose_id): name for pose_id, name in content.get("pose_names", {}).items()}
        return RunRecord(manifest, content["num_skipped"], tuple(content["failed_sources"]), names)

    def _read_content(self) -> dict[str, Any]:
        uri = join_uri(self.uri, RECORD_FILE)
        try:
            content: dict[str, Any] = json.loads(read_bytes(uri))
        except NotFoundError as error:
            raise self._nothing_to_resume() from error
        except ValueError as error:
            raise TrainingError(
                f"{uri}: not JSON: {error}; start a new run with another --run-name"
            ) from error
        return content

    def _nothing_to_resume(self) -> TrainingError:
        return TrainingError(
            f"run {self.name!r}: nothing to resume in {self.storage}; check --run-name and --storage"
        )
