from setting_forms import choices_of

from physiq_ray import images
from physiq_ray.config import LocalServingSettings
from physiq_ray.config.serving import MAX_PIXELS
from physiq_ray.images.formats import BASE_FORMATS, FORMATS


def test_extra_formats_offers_all_formats_that_are_not_read_by_default() -> None:
    extra = {name.upper() for name in choices_of(LocalServingSettings, "extra_formats")}
    assert {*BASE_FORMATS, *extra} == set(FORMATS)


def test_the_limit_of_pixels_is_the_one_of_the_decoder() -> None:
    assert MAX_PIXELS == images.MAX_PIXELS
