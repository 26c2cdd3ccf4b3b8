"""Read a bucket's listing page by page from S3's XML, so that an interrupted listing cannot look complete.

obstore's listing (with Arrow output too) ends at a page that does not name the next one, even if the page
says that the listing is truncated, or is no listing at all: a web server's HTML page reads as an empty
bucket. It also fails for the whole bucket if one key is like `a//b.jpg`. botocore's paginator ends in the
same way. Here `is_truncated` and `next_token` of each page reach `walk.py`, which makes such a page an
error.

botocore still signs, sends, follows redirects and retries. Only the body of a successful answer is taken from
it, in its event `before-parse`, because its own parser takes two thirds of a listing's time. A body that is
not a listing is left to botocore, which knows errors and incomplete answers.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import unquote_plus
from xml.parsers import expat

PAGE: Final = "ObjectPage"  # its key in the answer of list_objects_v2


@dataclass(frozen=True)
class ObjectPage:
    """One answer to ListObjectsV2, by column. ETags have no quotes, and are "" if the server gives none.

    prefixes: the folders, if the request has a delimiter. is_truncated: None if the answer does not say.
    """

    keys: list[str]
    sizes: list[int]
    etags: list[str]
    modified: list[datetime]
    prefixes: list[str]
    is_truncated: bool | None
    next_token: str | None


def take_page(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Replace a listing's body by its page; this is a handler of botocore's event `before-parse`."""
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

    Raises ExpatError: it is not XML. ValueError: it is not a listing, or an object lacks key, size or date.
    """
    reader = _Reader()
    # No tree is built: with its thousands of nodes, garbage collection would take as long as the parsing.
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.CharacterDataHandler = reader.read
    parser.EndElementHandler = reader.end
    parser.Parse(body, True)
    if reader.root != "ListBucketResult":
        raise ValueError(f"expected a ListBucketResult, got {reader.root}")
    # botocore requests this encoding, because a key may contain characters that XML cannot.
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
    """Collects the texts of an answer's elements."""

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
