import json

import pytest
from reports import FACTS, MAPPING, NAMES

from physiq_ray.evaluation import score, write_report
from physiq_ray.evaluation.behaviour import Behaviour, Invariance
from physiq_ray.evaluation.intervals import Interval
from physiq_ray.evaluation.sections import describe_behaviour, describe_slices
from physiq_ray.evaluation.slices import Slice, Slices

pytestmark = pytest.mark.slow


def make_slice(name, accuracy, adjusted, dimension="bucket"):
    p_value = None if adjusted is None else adjusted / 4
    return Slice(dimension, name, 40, 30, accuracy, Interval(0.5, 0.75), 0.91, p_value, adjusted)


NONE_BELOW = Slices((make_slice("a", 0.9, 1.0), make_slice("b", 0.88, 0.06)))
SOME_BELOW = Slices(
    (
        make_slice("a|b", 0.625, 0.049),
        make_slice("c", 0.1, None),
        make_slice("old", 0.6, 0.02, "month"),
        *(make_slice(f"part {number}", 0.5, 0.2, "size") for number in range(8)),
    )
)
GOOD = Invariance("mirrored", 0.95, Interval(0.9, 0.97))
LOW = Invariance("half size", 0.94, Interval(0.89, 0.96))
BEHAVIOUR = Behaviour(200, 3, (GOOD, LOW))


def test_only_slices_that_are_significantly_below_are_printed_the_worst_first():
    assert describe_slices(SOME_BELOW) == [
        "Slices: 10 tested (bucket, month, size); significantly below the other photos:",
        "  month old: 60.0% (50.0% to 75.0%) of 40 photos, the others 91.0%, p 0.02",
        "  bucket a|b: 62.5% (50.0% to 75.0%) of 40 photos, the others 91.0%, p 0.049",
    ]
    assert describe_slices(NONE_BELOW) == [
        "Slices: 2 tested (bucket); none is significantly below the other photos"
    ]


def test_a_share_of_unchanged_answers_below_95_percent_is_a_warning():
    assert describe_behaviour(BEHAVIOUR) == [
        "Behaviour: share of 200 photos whose answer does not change (3 more could not be read)",
        "  mirrored          95.0%  90.0% to 97.0%",
        "  half size         94.0%  89.0% to 96.0%",
        "  WARNING: less than 95% of the answers stay the same: half size (94.0%)",
    ]
    assert "WARNING" not in "".join(describe_behaviour(Behaviour(200, 0, (GOOD,))))
    assert describe_behaviour(Behaviour(0, 9, ())) == ["Behaviour: none of 9 photos could be read again"]


@pytest.fixture
def written(answers, tmp_path):
    """Give a function that writes a report, and returns its card and its JSON."""

    def write(**extras):
        report = score(answers, MAPPING, NAMES, temperature=1.3)
        write_report(report, answers, FACTS, str(tmp_path), **extras)
        card = (tmp_path / "model_card.md").read_text(encoding="utf-8")
        return card, json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))

    return write


def test_the_card_shows_the_worst_slices_and_names_those_below_as_a_limit(written):
    card, plain = written(slices=SOME_BELOW)
    rows = card.partition("| slice |")[2].partition("\n\n")[0].splitlines()[2:]
    # The eight worst of ten, and those that are significantly below.
    assert [row.split(" | ")[0] for row in rows] == [
        *(f"| size part {number}" for number in range(8)),
        *("| month old", "| bucket a\\|b"),
    ]
    assert rows[-2] == "| month old | 60.0% | 50.0% to 75.0% | 91.0% | 0.02 | 40 | 30 |"
    limits = card.partition("## Limits")[2].partition("##")[0]
    assert (
        "- The model is significantly less accurate on some photos than on others: month old, bucket a\\|b.\n"
    ) in limits
    assert plain["slices"] == json.loads(json.dumps(SOME_BELOW.to_dict()))
    assert "behaviour" not in plain


def test_the_card_of_a_model_without_weak_slices_says_so(written):
    card, _ = written(slices=NONE_BELOW)
    assert "None of them is significantly below the other photos." in card
    assert "less accurate on some photos" not in card


def test_the_card_warns_of_changes_that_change_the_answer(written):
    card, plain = written(behaviour=BEHAVIOUR)
    assert "| mirrored | 95.0% | 90.0% to 97.0% |\n| half size | 94.0% | 89.0% to 96.0% |\n" in card
    assert "- If photos are changed, less than 95% of the answers stay the same: half size (94.0%).\n" in card
    assert plain["behaviour"] == {
        **{"num_photos": 200, "num_unreadable": 3, "least_share": 0.95},
        "changes": [
            {"change": "mirrored", "unchanged": 0.95, "interval": [0.9, 0.97], "is_low": False},
            {"change": "half size", "unchanged": 0.94, "interval": [0.89, 0.96], "is_low": True},
        ],
    }
    assert "slices" not in plain
    assert "## Slices" not in card


def test_a_card_without_slices_and_behaviour_has_neither_section(written):
    card, plain = written()
    assert "## Slices" not in card
    assert "## Behaviour" not in card
    assert not {"slices", "behaviour"} & set(plain)
