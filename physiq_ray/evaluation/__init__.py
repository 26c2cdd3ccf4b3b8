"""What a trained model is worth: scores, calibration, figures and a model card.

candidates   which photos are scored
evaluate     a model on these photos → answers; the only file here that imports Ray
scores       answers against labels
calibration  the temperature, and the calibration error
facts        what the model card says besides the scores
card         the model card
figures      the scores as figures
report       all of it as files
"""

from physiq_ray.evaluation.calibration import calibration_error, fit_temperature
from physiq_ray.evaluation.card import Facts
from physiq_ray.evaluation.report import write_report
from physiq_ray.evaluation.scores import Answers, Report, score

__all__ = ["Answers", "Facts", "Report", "calibration_error", "fit_temperature", "score", "write_report"]
