"""Write a report as files: report.json, figures, model card."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from physiq_ray.checkpoint import ModelState
from physiq_ray.evaluation.behaviour import Behaviour
from physiq_ray.evaluation.card import Facts, write_card
from physiq_ray.evaluation.figures import (
    draw_confusion,
    draw_coverage,
    draw_curves,
    draw_mistakes,
    draw_reliability,
    draw_scores,
)
from physiq_ray.evaluation.scores import Answers, Report
from physiq_ray.evaluation.slices import Slices
from physiq_ray.prediction import Predictor
from physiq_ray.storage import join_uri, read_bytes, write_bytes

REPORT_FILE, CARD_FILE = "report.json", "model_card.md"


def write_report(
    report: Report,
    answers: Answers,
    facts: Facts,
    output: str,
    *,
    slices: Slices | None = None,
    behaviour: Behaviour | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    state: ModelState | None = None,
    read: Callable[[str], bytes] = read_bytes,
) -> tuple[str, ...]:
    """Write all files into a folder or s3:// prefix; give their uris.

    Curves are drawn if there is a history, and mistakes if there are any. state: the model, which shows where
    it looked in these mistakes. read: returns the bytes of a photo.
    Raises StorageError: output cannot be written.
    """
    files = {
        REPORT_FILE: _as_json(
            {"scored_on": facts.scored.words} | report.to_dict() | extras_as_dict(slices, behaviour)
        ).encode(),
        "confusion.png": draw_confusion(report),
        "scores.png": draw_scores(report),
        "reliability.png": draw_reliability(answers, report),
    }
    if report.floor is not None and report.floor.choice is not None:
        files["coverage.png"] = draw_coverage(report.floor)
    if history:
        files["curves.png"] = draw_curves(history, facts.best_epoch)
    if report.mistakes:
        # On the CPU, because a GPU may be in use, and only a few photos are explained.
        explain = Predictor(state, use_gpu=False).explain if state is not None else None
        files["mistakes.png"] = draw_mistakes(report.mistakes, read, explain)
    files[CARD_FILE] = write_card(report, facts, slices, behaviour).encode()
    uris = []
    for name, data in files.items():
        uris.append(join_uri(output, name))
        write_bytes(data, uris[-1])
    return tuple(uris)


def extras_as_dict(slices: Slices | None, behaviour: Behaviour | None) -> dict[str, Any]:
    """Give slices and behaviour as plain values for JSON, each if it is known."""
    extras = {"slices": slices, "behaviour": behaviour}
    return {name: item.to_dict() for name, item in extras.items() if item is not None}


def _as_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
