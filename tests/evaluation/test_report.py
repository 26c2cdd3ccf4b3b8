import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from reports import FACTS, HISTORY, MAPPING, NAMES

from physiq_ray.checkpoint import ModelState
from physiq_ray.errors import NotFoundError
from physiq_ray.evaluation import Answers, score, write_report
from physiq_ray.evaluation.figures import draw_confusion, draw_mistakes
from physiq_ray.evaluation.scores import Mistake
from physiq_ray.model import build_model
from physiq_ray.prediction.explanation import Explanation


def perfect(num_photos):
    labels = torch.arange(num_photos) % 3
    return Answers(
        tuple(map(str, range(num_photos))), labels, 9.0 * torch.nn.functional.one_hot(labels).float()
    )


def opened(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


@pytest.mark.slow
def test_all_files_are_written_and_the_figures_agree_with_the_answers(answers, tmp_path, make_photo):
    report = score(answers, MAPPING, NAMES, temperature=1.3)
    uris = write_report(
        report, answers, FACTS, str(tmp_path), history=HISTORY, read=lambda _: make_photo(size=(60, 80))
    )
    names = [
        *("report.json", "confusion.png", "scores.png", "reliability.png", "curves.png", "mistakes.png"),
        "model_card.md",
    ]
    assert [uri.rpartition("/")[2] for uri in uris] == names
    plain = json.loads((tmp_path / "report.json").read_text())
    predicted = answers.logits.argmax(dim=1)
    assert plain["accuracy"] == pytest.approx(sum((predicted == answers.labels).tolist()) / 63)
    assert plain["confusion"][0][1] == sum(
        t == 1 and y == 0 for t, y in zip(predicted.tolist(), answers.labels.tolist(), strict=True)
    )
    for name in names[1:5]:
        pixels = opened((tmp_path / name).read_bytes())
        assert min(pixels.shape[:2]) > 300
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50, name


@pytest.mark.slow
def test_without_history_and_mistakes_their_pictures_are_left_out(tmp_path):
    answers = perfect(9)
    report = score(answers, MAPPING, NAMES, temperature=1.0)
    uris = write_report(report, answers, FACTS, str(tmp_path))
    assert {uri.rpartition("/")[2] for uri in uris} == {
        *("report.json", "confusion.png", "scores.png", "reliability.png", "model_card.md")
    }


def test_a_perfect_confusion_matrix_is_dark_on_its_diagonal():
    pixels = opened(draw_confusion(score(perfect(30), MAPPING, NAMES, temperature=1.0)))
    dark_blue = (pixels[..., 2] > pixels[..., 0] + 60) & (pixels[..., 0] < 60)
    rows, columns = np.nonzero(dark_blue)
    inside = columns < np.percentile(columns, 90)  # the colour bar is on the right
    assert np.corrcoef(rows[inside], columns[inside])[0, 1] > 0.8


def test_the_sheet_shows_the_photos_and_leaves_room_for_one_that_is_gone():
    red = io.BytesIO()
    Image.new("RGB", (40, 40), (200, 10, 10)).save(red, "PNG")

    def read(uri):
        if uri == "gone.jpg":
            raise NotFoundError("gone.jpg is gone")
        return b"no photo" if uri == "broken.jpg" else red.getvalue()

    mistakes = [Mistake(uri, "A", "B", 0.9, 2) for uri in ("red.jpg", "gone.jpg", "broken.jpg")]
    pixels = opened(draw_mistakes(mistakes, read))
    is_red = (pixels[..., 0] > 150) & (pixels[..., 1] < 60)
    is_empty = (pixels == 235).all(axis=-1)
    assert is_red[:, : pixels.shape[1] // 3].mean() > 0.3
    assert is_red[:, pixels.shape[1] // 3 :].mean() < 0.02
    assert is_empty.sum() > 1.5 * is_red.sum()


def test_the_sheet_shows_where_the_network_looked_for_the_predicted_pose():
    red = io.BytesIO()
    Image.new("RGB", (40, 40), (200, 10, 10)).save(red, "PNG")
    asked = []

    def explain(data, pose_id):
        asked.append((data, pose_id))
        return Explanation(np.array([[0.0, 1.0], [0.0, 0.0]]), 64)

    def read(uri):
        return b"no photo" if uri == "broken.jpg" else red.getvalue()

    mistakes = [Mistake("red.jpg", "A", "B", 0.9, 2), Mistake("broken.jpg", "A", "C", 0.8, 7)]
    pixels = opened(draw_mistakes(mistakes, read, explain))

    assert asked == [(red.getvalue(), 2)]
    half = pixels.shape[1] // 2
    rows, columns = np.nonzero((pixels[..., 0] > 150) & (pixels[..., 1] < 60))  # the photo
    assert columns.max() < half / 2
    side = columns.max() - columns.min()
    painted = pixels[rows.min() : rows.max(), columns.max() + 15 : columns.max() + side]
    y, x = np.unravel_index(painted.sum(axis=2).argmax(), painted.shape[:2])
    assert (x / side, y / side) == pytest.approx((0.5, 0), abs=0.06)  # pixel 32 of 64, at the top
    assert (painted[-20:, :20] < 60).all()
    assert (pixels[:, half:] == 235).all(axis=-1).sum() > 0.5 * side**2


@pytest.mark.slow
def test_the_report_of_a_model_shows_where_it_looked(answers, tmp_path, make_photo):
    state = ModelState(build_model(3).state_dict(), MAPPING, NAMES, image_size=64)
    report = score(answers, MAPPING, NAMES, temperature=1.3)
    sizes = []
    for given in (None, state):
        write_report(report, answers, FACTS, str(tmp_path), state=given, read=lambda _: make_photo())
        sizes.append(opened((tmp_path / "mistakes.png").read_bytes()).shape)

    assert sizes[0][1] == 4 * 312  # four photos of 2.6 inches at 120 dpi
    assert sizes[1][1] == 3 * 600  # three pairs


@pytest.mark.slow
def test_the_card_gives_the_training_photos_the_scores_and_the_limits(answers, tmp_path):
    write_report(score(answers, MAPPING, NAMES, temperature=1.3), answers, FACTS, str(tmp_path))
    card = (tmp_path / "model_card.md").read_text()
    assert (
        "The model was trained on photos of `s3://checkins`: 89 training photos and 63 validation photos. "
        "Photos without a clear label were skipped: 4. Unreadable photos were quarantined: 1.\n"
    ) in card
    assert "| trained on | validated with | precision | recall | F1 | 95 % interval of F1 | photos" in card
    assert "| 7 | Back Lat Spread | 11 | 3 |" in card
    assert "Few photos were scored for Back Lat Spread (3)" in card
    assert "The model was scored on the validation photos, 63 in total:" in card
    assert "the temperature were chosen on the validation photos, so the scores are too high" in card
    assert "| `train_sizes` | `128,224` |" in card
    assert "`storage`" not in card
    assert "the weights of epoch 4 of 5" in card
    assert "same athlete" in card
    assert "The model was made with torch 2.15.0.\n" in card


@pytest.mark.slow
def test_names_with_dollar_signs_are_not_drawn_as_formulas(answers, tmp_path, make_photo):
    dear = Answers(tuple(f"s3://b/{n} a$5_$.jpg" for n in range(63)), answers.labels, answers.logits)
    report = score(dear, MAPPING, dict.fromkeys(NAMES, r"$\pose_$"), temperature=1.3)
    assert report.mistakes
    uris = write_report(report, dear, FACTS, str(tmp_path), history=HISTORY, read=lambda _: make_photo())
    assert len(uris) == 7
