import pickle
import re

import pytest

from physiq_ray import errors

ERRORS = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, BaseException)
]


def tree_in_the_docstring() -> dict[str, str]:
    """Read the tree in the module's docstring; give the parent of each class."""
    ancestors, parents = [(-1, "PhysiqError")], {}
    for line in (errors.__doc__ or "").splitlines():
        if drawn := re.match(r"([ │]*)[├└]── (\w+)  ", line):
            depth, name = len(drawn[1]), drawn[2]
            while ancestors[-1][0] >= depth:
                ancestors.pop()
            parents[name] = ancestors[-1][1]
            ancestors.append((depth, name))
    return parents


def test_the_tree_in_the_docstring_shows_every_error_below_its_parent() -> None:
    assert tree_in_the_docstring() == {
        error.__name__: error.__bases__[0].__name__ for error in ERRORS if error is not errors.PhysiqError
    }


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_is_caught_as_a_physiq_error(error: type[Exception]) -> None:
    assert issubclass(error, errors.PhysiqError)


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_keeps_its_message_when_it_is_pickled(error: type[Exception]) -> None:
    received = pickle.loads(pickle.dumps(error("s3://checkins/a.jpg: « é », 100 %\nsecond line")))

    assert type(received) is error
    assert str(received) == "s3://checkins/a.jpg: « é », 100 %\nsecond line"


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_has_a_docstring_of_sentences(error: type[Exception]) -> None:
    assert (error.__doc__ or "").endswith(".")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://checkins/a-b_1%20.jpg", "s3://checkins/a-b_1%20.jpg"),
        ("s3://checkins/é.jpg", "s3://checkins/é.jpg"),
        ("é 写真.jpg", "'é 写真.jpg'"),
        ("e\u0301.jpg", r"'e\u0301.jpg'"),
        ("a.jpg ", "'a.jpg '"),
        ("", "''"),
        ('a".jpg', 'a".jpg'),
        ("a'.jpg", '"a\'.jpg"'),
        ("a\\n.jpg", r"'a\\n.jpg'"),
        ("a\n\x00\u00a0\u202e\u200b.jpg", r"'a\n\x00\xa0\u202e\u200b.jpg'"),
    ],
)
def test_an_address_with_invisible_or_ambiguous_characters_is_quoted(uri: str, shown: str) -> None:
    assert errors.shown(uri) == shown
    assert errors.quoted("a.jpg") == "'a.jpg'"
