"""Photos from anywhere else: a source that a Python caller writes, and one that reads a ZIP file.

A `PhotoSource` lists and reads. It is plain data, as it travels to the processes that decode, and its module
must be there too; what it opens, it opens in `read`. `train`, `collect_manifest` and `open_photos` take one.
"""

import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from physiq_ray.errors import ChangedError, NotFoundError, SettingError, StorageError
from physiq_ray.storage.address import CustomSource
from physiq_ray.storage.kinds import is_photo
from physiq_ray.storage.listing import LISTING_SCHEMA, Listing
from physiq_ray.storage.objects import translate_os


class PhotoSource(Protocol):
    """Where photos lie, in a caller's own words."""

    @property
    def name(self) -> str:
        """What stands in the manifest's `bucket` column, and what a label's source may be mapped to."""

    def list(self) -> pa.Table:
        """Give all photos as a table of LISTING_SCHEMA, or raise StorageError: never a part of them.

        uri: any text, another for each photo, by which `read` finds it. key: what labels name. etag: another
        for each version of a photo, equal for equal content where that is known, "" where nothing is.
        """

    def read(self, uri: str, etag: str) -> bytes:
        """Read one photo whole, called from many threads and processes.

        Raises ChangedError: it is not the version of this etag; NotFoundError: it is gone; StorageError, or
        anything else, which costs this photo only.
        """


def list_custom(source: PhotoSource) -> Listing:
    """List a source to a table or an error, as `list_sources` does.

    Raises SettingError: what it gives is no listing.
    """
    named = CustomSource(source.name)
    try:
        table = source.list()
    except StorageError as error:
        return Listing(named, error=error)
    if not table.schema.equals(LISTING_SCHEMA) or any(column.null_count for column in table.columns):
        raise SettingError(
            f"source {source.name}: list() gave the columns {', '.join(map(str, table.schema))}; expected a "
            "table of physiq_ray.storage.LISTING_SCHEMA without nulls"
        )
    return Listing(named, table)


@dataclass(frozen=True)
class ZipPhotos:
    """The photos in a ZIP file, which all nodes must see under the same absolute path."""

    path: Path

    @property
    def name(self) -> str:
        """The file's name, without its ending."""
        return self.path.stem

    def list(self) -> pa.Table:
        """Give the photos by their names in the file; the checksum stands for the ETag.

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
