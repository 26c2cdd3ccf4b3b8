import json

from physiq_ray.cli.output import as_json


def test_json_of_a_name_that_cannot_be_decoded_can_be_printed():
    assert json.loads(as_json({"uri": "a\udcff.jpg"})) == {"uri": "a\udcff.jpg"}
