"""Evaluate a trained model: scores, calibration, figures and a model card.

behaviour    how often an answer stays the same if the photo is mirrored, darker, cropped, and so on
calibration  the temperature, the calibration error, and the bins of the reliability diagram
candidates   which photos are scored: those of the caller, or those of the training; imports Ray
card         the text of the model card
choose_floor which score and which threshold decide that a photo shows no known pose
compare      whether a new model is significantly better or worse than an old one
dimensions   which slices a photo is in, by bucket, pose, size, brightness, month and group
evaluate     a model and photos → answers; imports Ray
facts        the facts on the model card that are not scores
figures      the scores as figures
find_floor   which photos choose the floor; imports Ray
floor_scores how well a floor works on labelled photos
intervals    95 % intervals of scores, for photos that come in groups
labelled     the labelled photos that a model is scored on, and its outputs for them → answers
measure_reference  what the validation photos are like, for the service; imports Ray
report       which files a report has, and writing them
scores       answers and labels → scores
sections     slices and behaviour as lines for a reader, and as sections of the model card
slices       the accuracy of slices, and which of them are significantly below the other photos
text         a report as lines for a reader
"""

from physiq_ray.evaluation.calibration import calibration_error, fit_temperature
from physiq_ray.evaluation.card import Facts
from physiq_ray.evaluation.report import write_report
from physiq_ray.evaluation.scores import Answers, Report, score

__all__ = ["Answers", "Facts", "Report", "calibration_error", "fit_temperature", "score", "write_report"]
