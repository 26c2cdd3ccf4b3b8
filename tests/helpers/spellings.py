"""The spellings of a name in a label, and the object that each means: one table for all tools.

The names of different cases differ, so that all cases fit into one bucket and one label file.
"""

from typing import Final, NamedTuple


class Spelling(NamedTuple):
    """A label, the keys in the bucket, and the keys that the label means; a single key needs no tuple.

    conflict: keys that the label may mean, because it is ambiguous. kept: unlabelled keys that resemble
    this unmatched label. cleanse may delete the other keys.
    """

    label: str
    keys: str | tuple[str, ...]
    means: str | tuple[str, ...] = ()
    conflict: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def all_of(self, field: str) -> set[str]:
        """Give the keys in a field."""
        value = getattr(self, field)
        return {value} if isinstance(value, str) else set(value)


BUCKET: Final = "spellings"  # named by some labels

SPELLINGS: Final = (
    # Exact names.
    Spelling("a01.jpg", "a01.jpg", "a01.jpg"),
    Spelling("a02.jpg", "anna/a02.jpg", "anna/a02.jpg"),
    Spelling("a03.jpg", ("anna/a03.jpg", "bea/a03.jpg"), ("anna/a03.jpg", "bea/a03.jpg")),
    Spelling("a04.jpg", ("a04.jpg", "a04.JPG"), "a04.jpg"),
    Spelling("a05 100%.jpg", "a05 100%.jpg", "a05 100%.jpg"),
    Spelling("a06%20x.jpg", ("a06%20x.jpg", "a06 x.jpg"), "a06%20x.jpg"),
    Spelling("a07+x.jpg", ("a07+x.jpg", "a07 x.jpg"), "a07+x.jpg"),
    Spelling("a08 c\u00f4t\u00e9.jpg", "a08 co\u0302te\u0301.jpg", "a08 co\u0302te\u0301.jpg"),
    Spelling("a09 co\u0302te\u0301.jpg", "x/a09 c\u00f4t\u00e9.jpg", "x/a09 c\u00f4t\u00e9.jpg"),
    # A name with a folder means only that object.
    Spelling("anna/b01.jpg", ("anna/b01.jpg", "bea/b01.jpg"), "anna/b01.jpg"),
    Spelling("anna/b02.jpg", "bea/b02.jpg", kept=("bea/b02.jpg",)),
    Spelling("anna/b03.jpg", "x/anna/b03.jpg", kept=("x/anna/b03.jpg",)),
    Spelling("anna/b04.jpg", "b04.jpg", kept=("b04.jpg",)),
    Spelling(f"s3://{BUCKET}/anna/b05.jpg", ("anna/b05.jpg", "bea/b05.jpg"), "anna/b05.jpg"),
    Spelling(f"s3://{BUCKET}/b06.jpg", ("b06.jpg", "bea/b06.jpg"), "b06.jpg"),
    # Percent-encoding.
    Spelling("c01%20pose%201.jpg", "c01 pose 1.jpg", "c01 pose 1.jpg"),
    Spelling("c02%C3%B4t%C3%A9.jpg", "c02\u00f4t\u00e9.jpg", "c02\u00f4t\u00e9.jpg"),
    Spelling("c03%2Bb.jpg", ("c03+b.jpg", "c03 b.jpg"), "c03+b.jpg"),
    Spelling("c04+b.jpg", "c04 b.jpg", "c04 b.jpg"),
    Spelling("c05%2520b.jpg", "c05 b.jpg", "c05 b.jpg"),
    Spelling("c06 100%25.jpg", "c06 100%.jpg", "c06 100%.jpg"),
    Spelling("c07 b.jpg", "c07%20b.jpg", "c07%20b.jpg"),
    Spelling("anna%2Fc08.jpg", ("anna/c08.jpg", "bea/c08.jpg"), "anna/c08.jpg"),
    Spelling("c09%E9.jpg", "c09\u00e9.jpg", "c09\u00e9.jpg"),
    # URLs.
    Spelling("https://photos.example/one/d01.jpg?X-Amz-Signature=0", "d01.jpg", "d01.jpg"),
    Spelling(
        "https://cdn.example/img/anna/d02%20x.jpg#top", ("anna/d02 x.jpg", "d02 x.jpg"), "anna/d02 x.jpg"
    ),
    Spelling("https://cdn.example/anna/d03.jpg", "bea/d03.jpg", kept=("bea/d03.jpg",)),
    Spelling(f"https://{BUCKET}.s3.eu-west-1.amazonaws.com/anna/d04.jpg?v=1", "anna/d04.jpg", "anna/d04.jpg"),
    Spelling(f"https://s3.amazonaws.com/{BUCKET}/anna/d05.jpg", "anna/d05.jpg", "anna/d05.jpg"),
    Spelling(f"http://127.0.0.1:8333/{BUCKET}/d06.jpg", ("d06.jpg", "x/d06.jpg"), "d06.jpg"),
    Spelling("https://elsewhere.s3.amazonaws.com/anna/d07.jpg", "anna/d07.jpg", kept=("anna/d07.jpg",)),
    Spelling(f"s3://{BUCKET}/anna/d08%20x.jpg", "anna/d08 x.jpg", "anna/d08 x.jpg"),
    Spelling(f"arn:aws:s3:::{BUCKET}/anna/d09.jpg", "anna/d09.jpg", "anna/d09.jpg"),
    Spelling("https://cdn.example/d10.jpg?size=2", "anna/d10.jpg", "anna/d10.jpg"),
    # Paths.
    Spelling("C:\\photos\\anna\\e01.jpg", ("anna/e01.jpg", "bea/e01.jpg"), "anna/e01.jpg"),
    Spelling("anna\\e02.jpg", ("anna/e02.jpg", "bea/e02.jpg"), "anna/e02.jpg"),
    Spelling("/home/me/photos/e03.jpg", "e03.jpg", "e03.jpg"),
    Spelling("/anna/e04.jpg", "anna/e04.jpg", "anna/e04.jpg"),
    Spelling("./e05.jpg", "e05.jpg", "e05.jpg"),
    Spelling("file:///home/me/anna/e06%20x.jpg", "anna/e06 x.jpg", "anna/e06 x.jpg"),
    Spelling("\\\\server\\share\\e07.jpg", "e07.jpg", "e07.jpg"),
    Spelling("/home/me/photos/e08.jpg", "anna/e08.jpg", kept=("anna/e08.jpg",)),
    Spelling(f"{BUCKET}/anna/e09.jpg", "anna/e09.jpg", "anna/e09.jpg"),
    # Case, and characters around a name.
    Spelling("f01.jpg", "f01.JPG", "f01.JPG"),
    Spelling("f02.JPEG", "x/f02.jpeg", "x/f02.jpeg"),
    Spelling(" f03.jpg\n", "f03.jpg", "f03.jpg"),
    Spelling('"f04.jpg"', "f04.jpg", "f04.jpg"),
    Spelling("\ufefff05.jpg", "f05.jpg", "f05.jpg"),
    Spelling("f06\u200b.jpg\u200b", "f06.jpg", kept=("f06.jpg",)),
    Spelling("f07.jpg\u200b", "f07.jpg", "f07.jpg"),
    Spelling("\u201cf08.jpg\u201d,", "f08.jpg", "f08.jpg"),
    # Several objects fit.
    Spelling("g01.jpg", ("g01.JPG", "g01.Jpg"), conflict=("g01.JPG", "g01.Jpg")),
    Spelling("g02.jpg", ("anna/g02.JPG", "bea/g02.JPG"), conflict=("anna/g02.JPG", "bea/g02.JPG")),
    Spelling("g03%20x.jpg", ("g03 x.jpg", "g03+x.jpg"), conflict=("g03 x.jpg", "g03+x.jpg")),
    # The label means no object.
    Spelling("h01.jpg", "h02.jpg"),
    Spelling("h03.jpg", "h03.jpeg", kept=("h03.jpeg",)),
    Spelling("H04 Pose.jpg", "h04-pose.png", kept=("h04-pose.png",)),
    Spelling("h05-IMG.jpg", "1757471824350-h05-IMG.jpg", kept=("1757471824350-h05-IMG.jpg",)),
    Spelling("h06\uff11.jpg", "h061.jpg", kept=("h061.jpg",)),
    Spelling("h07", "h07.jpg", kept=("h07.jpg",)),
    Spelling("h08 Cote.jpg", "h08 c\u00f4t\u00e9.jpg", kept=("h08 c\u00f4t\u00e9.jpg",)),
)
