"""Write several files that belong together: all of them appear, or the earlier files stay."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from physiq_ray.storage.address import join_uri
from physiq_ray.storage.objects import translate_os, write_file


@contextmanager
def written_together(output: str, *, last: Sequence[str]) -> Iterator[Path]:
    """Give an empty folder, whose files appear in output at the end of the block; `last` come last, in order.

    output: a folder or s3:// prefix. In a folder, the files are written to a sub-folder and renamed only when
    all of them are on the disk, so a full disk leaves the earlier files unchanged. Objects cannot be renamed:
    the upload starts when all files are complete, and a failed upload leaves the objects after it unchanged.
    Raises StorageError: output cannot be written. If the block raises an error, output is unchanged.
    """
    is_local = not output.startswith("s3://")
    try:
        if is_local:
            Path(output).mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".new-", dir=output if is_local else None))
    except OSError as error:
        raise translate_os(error, f"write {output}") from error
    try:
        yield folder
        made = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in made]
        ordered = [name for name in names if name not in last] + [name for name in last if name in names]
        if is_local:
            _rename(folder, Path(output), ordered)
        else:
            for name in ordered:
                write_file(folder / name, join_uri(output, name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rename(folder: Path, output: Path, names: Sequence[str]) -> None:
    try:
        for name in names:
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("rb") as file:
                os.fsync(file.fileno())  # some file systems report a full disk only here
        for name in names:
            (folder / name).replace(output / name)
    except OSError as error:
        raise translate_os(error, f"write {output}") from error
