"""Answers of a scripted S3 server: pages of a listing, and errors."""

from collections.abc import Callable

Answer = tuple[int, dict[str, str], bytes]
Script = Callable[[int], Answer]


def error_answer(status: int, code: str) -> Answer:
    return status, {}, f"<Error><Code>{code}</Code><Message>scripted</Message></Error>".encode()


def page_answer(*keys: str, next_page: str | None) -> Answer:
    contents = "".join(
        f"<Contents><Key>{key}</Key><Size>3</Size><ETag>&quot;e&quot;</ETag>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
        for key in keys
    )
    token = f"<NextContinuationToken>{next_page}</NextContinuationToken>" if next_page else ""
    body = (
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>{'true' if next_page else 'false'}</IsTruncated>{token}{contents}</ListBucketResult>"
    )
    return 200, {"Content-Type": "application/xml"}, body.encode()


def answer_without(text: str, *, next_page: str | None) -> Answer:
    status, headers, body = page_answer("b.jpg", next_page=next_page)
    assert text.encode() in body
    return status, headers, body.replace(text.encode(), b"")
