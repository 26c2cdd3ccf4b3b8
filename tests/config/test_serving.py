from setting_forms import choices_of

from physiq_ray import images
from physiq_ray.config import LocalServingSettings
from physiq_ray.config.serving import MAX_PIXELS
from physiq_ray.images.formats import BASE_FORMATS, FORMATS


def test_the_extra_formats_are_those_that_are_read_besides_the_usual_ones() -> None:
    extra = {name.upper() for name in choices_of(LocalServingSettings, "extra_formats")}
    assert {*BASE_FORMATS, *extra} == set(FORMATS)


def test_a_photo_may_have_as_many_pixels_as_can_be_decoded_and_no_more() -> None:
    assert MAX_PIXELS == images.MAX_PIXELS
