"""The pages of a bucket's listing, read straight from S3's XML.

botocore signs, sends, follows redirects and tries again as ever. Only the body of a good answer is taken
from it, in its event `before-parse`, before it walks a model of every element: that walk is two thirds of a
listing's time. What does not read as a listing is left to botocore, which knows errors and torn answers.
"""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import unquote_plus

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
    except (ElementTree.ParseError, ValueError, TypeError):
        return
    customized_response_dict[PAGE] = page
    response_dict["body"] = b"<ListBucketResult/>"


def parse_page(body: bytes) -> ObjectPage:
    """Read the XML of one answer.

    Raises ElementTree.ParseError: no XML. ValueError or TypeError: no listing, or an object without key,
    size or date.
    """
    # The standard library's parser, as in botocore: expat refuses documents whose entities grow.
    root = ElementTree.fromstring(body)
    namespace, brace, name = root.tag.rpartition("}")
    if name != "ListBucketResult":
        raise ValueError(f"expected a ListBucketResult, got {name}")
    namespace += brace
    contents = root.findall(f"{namespace}Contents")

    def texts(tag: str) -> list[str | None]:
        return [item.findtext(namespace + tag) for item in contents]

    # Asked for by botocore: XML cannot hold every character that a key can.
    is_encoded = root.findtext(f"{namespace}EncodingType") == "url"
    prefixes = [item.findtext(f"{namespace}Prefix") for item in root.findall(f"{namespace}CommonPrefixes")]
    truncated = root.findtext(f"{namespace}IsTruncated")
    return ObjectPage(
        keys=_names(texts("Key"), is_encoded=is_encoded),
        sizes=[int(text or "") for text in texts("Size")],
        etags=[(text or "").strip('"') for text in texts("ETag")],
        modified=[datetime.fromisoformat(text or "") for text in texts("LastModified")],
        prefixes=_names(prefixes, is_encoded=is_encoded),
        is_truncated=truncated == "true" if truncated in ("true", "false") else None,
        next_token=root.findtext(f"{namespace}NextContinuationToken") or None,
    )


def _names(texts: list[str | None], *, is_encoded: bool) -> list[str]:
    names = [text for text in texts if text]
    if len(names) < len(texts):
        raise ValueError("an object without a key")
    if not is_encoded:
        return names
    return [unquote_plus(name) if "%" in name or "+" in name else name for name in names]
