from dataclasses import replace

from physiq_ray.suspects.found import find_suspects
from physiq_ray.suspects.text import describe_suspects


def test_the_first_photos_the_counts_and_the_limits_are_shown(two_wrong):
    lines = describe_suspects(find_suspects(two_wrong))
    assert lines == [
        "5 photos ranked: 2 labels are likely wrong, those of the first 2",
        "    rank  labelled                      suggested                     photo",
        "       1  Front Lat Spread       10.0%  Front Double Biceps    85.0%  s3://checkins/c.jpg",
        "       2  Back Lat Spread        20.0%  Front Lat Spread       70.0%  s3://training/d.jpg",
        "       3  Front Double Biceps    80.0%  Front Lat Spread       10.0%  s3://checkins/b.jpg",
        "       4  Front Lat Spread       90.0%  Front Double Biceps     6.0%  s3://checkins/a.jpg",
        "       5  Back Lat Spread        90.0%  Front Lat Spread        5.0%  s3://training/e.jpg",
        "Likely wrong labels by bucket:",
        "  checkins: 1 of 3 (33.3%)",
        "  training: 1 of 2 (50.0%)",
        "Likely wrong labels by pair of poses:",
        "       1  Front Lat Spread → Front Double Biceps",
        "       1  Back Lat Spread → Front Lat Spread",
        "For 60.0% of the photos, the label is the most probable pose. This is too few to trust the ranking: "
        "train longer, or on more photos.",
        "A limit.",
    ]


def test_a_model_that_agrees_with_most_labels_needs_no_warning(two_wrong):
    suspects = find_suspects(two_wrong)
    agreeing = replace(suspects, ranked=(*suspects.ranked[1:], *suspects.ranked[2:]))
    assert "For 85.7% of the photos, the label is the most probable pose." in describe_suspects(agreeing)
