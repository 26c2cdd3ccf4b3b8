"""Several files of one making: all of them appear, or those before stay."""

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
    """Give an empty folder; at the end of the block what is in it appears in output, `last` in that order.

    output: a folder or s3:// prefix. A folder's files are written within it, and only renamed once all are on
    the disk: one that fills up leaves the files before as they were. Objects cannot be renamed: nothing is
    uploaded before all are made, and an upload that fails leaves those after it as they were.
    Raises StorageError: output cannot be written. What the block raises, with output untouched.
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
                os.fsync(file.fileno())  # some file systems find out here that there is no room
        for name in names:
            (folder / name).replace(output / name)
    except OSError as error:
        raise translate_os(error, f"write {output}") from error
