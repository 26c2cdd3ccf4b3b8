"""The texts for people name the same formats as the program reads."""

import re
from pathlib import Path

import pytest

from physiq_ray.config import ServingSettings
from physiq_ray.constants import BASE_FORMATS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "physiq_ray" / "serving" / "page"


def test_the_page_accepts_the_formats_that_the_service_reads():
    accepted = re.findall(r'multiple\s+accept="([^"]+)"', (PAGE / "page.html").read_text(encoding="utf-8"))
    assert accepted == [",".join(f"image/{name.lower()}" for name in BASE_FORMATS)]


@pytest.mark.parametrize(
    "text",
    [
        (PAGE / "page.js").read_text(encoding="utf-8"),
        (ROOT / "docs" / "serving.md").read_text(encoding="utf-8"),
        (ROOT / "docs" / "data.md").read_text(encoding="utf-8"),
        ServingSettings.model_fields["extra_formats"].description,
    ],
    ids=["page", "serving", "data", "setting"],
)
def test_a_text_names_the_formats_that_are_read(text: str):
    names = re.search(r"JPEG, PNG, (?:\w+(?:, | or | and )?)+", text)
    assert names is not None
    listed = re.split(r", | or | and ", names[0])
    assert [name.upper() for name in listed][: len(BASE_FORMATS)] == list(BASE_FORMATS)
