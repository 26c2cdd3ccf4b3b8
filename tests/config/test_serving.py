from PIL import Image
from setting_forms import choices_of

from physiq_ray.config import LocalServingSettings
from physiq_ray.constants import BASE_FORMATS, FORMATS, MAX_PIXELS


def test_extra_formats_offers_all_formats_that_are_not_read_by_default() -> None:
    extra = {name.upper() for name in choices_of(LocalServingSettings, "extra_formats")}
    assert {*BASE_FORMATS, *extra} == set(FORMATS)


def test_the_limit_of_pixels_is_pillow_s() -> None:
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS
