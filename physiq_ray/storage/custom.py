"""Photos from other places: a source that a Python caller writes, and one that reads a ZIP file.

A `PhotoSource` lists and reads photos. It must be plain data, because it travels to the processes that
decode; they must be able to import its module, and files are opened only in `read`. `train`,
`collect_manifest` and `open_photos` accept one.
"""

import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from physiq_ray.columns import widened
from physiq_ray.errors import ChangedError, NotFoundError, SettingError, StorageError
from physiq_ray.storage.address import CustomSource
from physiq_ray.storage.kinds import is_photo
from physiq_ray.storage.listing import LISTING_SCHEMA, Listing
from physiq_ray.storage.objects import translate_os


class PhotoSource(Protocol):
    """A place with photos that the caller defines."""

    @property
    def name(self) -> str:
        """The value of the manifest's `bucket` column; a label's source can be mapped to it."""

    def list(self) -> pa.Table:
        """Give all photos as a table of LISTING_SCHEMA, or raise StorageError; never give a part of them.

        A column may also be a string column in place of a large_string column.
        uri: any text that is unique to the photo; `read` finds the photo by it. key: the name that labels
        use. etag: it differs between versions of a photo and is equal for equal content if that is known;
        "" if nothing is known.
        """

    def read(self, uri: str, etag: str) -> bytes:
        """Read one photo whole; many threads and processes call this.

        Raises ChangedError: it is not the version of this etag; NotFoundError: it is gone; StorageError or
        any other error: this photo alone is left out.
        """


def list_custom(source: PhotoSource) -> Listing:
    """List a source to a table or an error, as `list_sources` does.

    Raises SettingError: its `list` did not return a listing.
    """
    named = CustomSource(source.name)
    try:
        table = source.list()
    except StorageError as error:
        return Listing(named, error=error)
    wide = widened(table)
    if not wide.schema.equals(LISTING_SCHEMA) or any(column.null_count for column in wide.columns):
        raise SettingError(
            f"source {source.name}: list() gave the columns {', '.join(map(str, table.schema))}; expected a "
            "table of physiq_ray.storage.LISTING_SCHEMA without nulls"
        )
    return Listing(named, wide)


@dataclass(frozen=True)
class ZipPhotos:
    """The photos in a ZIP file, which must have the same absolute path on all nodes."""

    path: Path

    @property
    def name(self) -> str:
        """The file's name without its extension."""
        return self.path.stem

    def list(self) -> pa.Table:
        """Give the photos by their names in the file; their checksums serve as ETags.

        Raises StorageError: the file cannot be read.
        """
        with self._open("list") as archive:
            rows = [
                {
                    "uri": f"{self._base}{entry.filename}",
                    "bucket": self.name,
                    "key": entry.filename,
                    "size": entry.file_size,
                    "etag": _etag(entry),
                    "modified": datetime(*entry.date_time, tzinfo=UTC),
                }
                for entry in archive.infolist()
                if is_photo(entry.filename)
            ]
        return pa.Table.from_pylist(rows, schema=LISTING_SCHEMA)

    def read(self, uri: str, etag: str) -> bytes:
        """Read one photo.

        Raises ChangedError, NotFoundError; StorageError: the file is damaged.
        """
        name = uri.removeprefix(self._base)
        with self._open("read") as archive:
            try:
                entry = archive.getinfo(name)
                if etag and _etag(entry) != etag:
                    raise ChangedError(f"read {uri}: it changed since it was listed; list the photos again")
                return archive.read(entry)
            except KeyError as error:
                raise NotFoundError(f"read {uri}: no such photo in the ZIP file") from error
            except zipfile.BadZipFile as error:
                raise StorageError(f"read {uri}: {error}") from error

    @property
    def _base(self) -> str:
        return f"zip://{self.path.absolute()}/"

    def _open(self, verb: str) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except OSError as error:
            raise translate_os(error, f"{verb} {self.path}") from error
        except zipfile.BadZipFile as error:
            raise StorageError(f"{verb} {self.path}: not a ZIP file: {error}") from error


def _etag(entry: zipfile.ZipInfo) -> str:
    return f"crc-{entry.CRC:08x}"
