"""The pages of a bucket's listing, read straight from S3's XML.

botocore signs, sends, follows redirects and tries again as ever. Only the body of a good answer is taken
from it, in its event `before-parse`, before it walks a model of every element: that walk is two thirds of a
listing's time. What does not read as a listing is left to botocore, which knows errors and torn answers.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import unquote_plus
from xml.parsers import expat

PAGE: Final = "ObjectPage"  # where it stands in the answer of list_objects_v2


@dataclass(frozen=True)
class ObjectPage:
    """One answer to ListObjectsV2, by column. ETags without their quotes, "" where the server gives none.

    prefixes: the folders, where a delimiter was asked for. is_truncated: None where the answer does not say.
    """

    keys: list[str]
    sizes: list[int]
    etags: list[str]
    modified: list[datetime]
    prefixes: list[str]
    is_truncated: bool | None
    next_token: str | None


def take_page(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Replace a listing's body by its page: a handler of botocore's event `before-parse`."""
    if response_dict["status_code"] != 200:
        return
    try:
        page = parse_page(response_dict["body"])
    except (expat.ExpatError, ValueError):
        return
    customized_response_dict[PAGE] = page
    response_dict["body"] = b"<ListBucketResult/>"


def parse_page(body: bytes) -> ObjectPage:
    """Read the XML of one answer.

    Raises ExpatError: no XML. ValueError: no listing, or an object without key, size or date.
    """
    reader = _Reader()
    # Not by a tree: its thousands of nodes a page wake the garbage collector, which takes as long again.
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.CharacterDataHandler = reader.read
    parser.EndElementHandler = reader.end
    parser.Parse(body, True)
    if reader.root != "ListBucketResult":
        raise ValueError(f"expected a ListBucketResult, got {reader.root}")
    # Asked for by botocore: XML cannot hold every character that a key can.
    decode = _unquote if reader.last.get("EncodingType") == "url" else list
    truncated = reader.last.get("IsTruncated")
    return ObjectPage(
        keys=decode(reader.keys),
        sizes=list(map(int, reader.sizes)),
        etags=[etag.strip('"') for etag in reader.etags],
        modified=list(map(datetime.fromisoformat, reader.modified)),
        prefixes=decode(reader.prefixes),
        is_truncated=truncated == "true" if truncated in ("true", "false") else None,
        next_token=reader.last.get("NextContinuationToken") or None,
    )


class _Reader:
    """Collects the texts of an answer's elements as expat comes to their ends."""

    def __init__(self) -> None:
        self.root = ""
        self.keys: list[str] = []
        self.sizes: list[str] = []
        self.etags: list[str] = []
        self.modified: list[str] = []
        self.prefixes: list[str] = []
        self.last: dict[str, str] = {}
        self._text = ""
        self._columns = {
            "Key": self.keys,
            "Size": self.sizes,
            "ETag": self.etags,
            "LastModified": self.modified,
        }

    def start(self, name: str, _attributes: dict[str, str]) -> None:
        self._text = ""
        if not self.root:
            self.root = name

    def read(self, text: str) -> None:
        self._text += text

    def end(self, name: str) -> None:
        column = self._columns.get(name)
        if column is not None:
            column.append(self._text)
        elif name == "Contents":
            self._end_object()
        elif name == "CommonPrefixes":
            self.prefixes.append(self.last.pop("Prefix", ""))
        else:
            self.last[name] = self._text

    def _end_object(self) -> None:
        count = len(self.keys)
        if len(self.etags) < count:
            self.etags.append("")
        if not (len(self.sizes) == len(self.modified) == len(self.etags) == count) or not self.keys[-1]:
            raise ValueError("an object without key, size or date")


def _unquote(names: list[str]) -> list[str]:
    return [unquote_plus(name) if "%" in name or "+" in name else name for name in names]
