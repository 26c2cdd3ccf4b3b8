"""What a trained model is worth: scores, calibration, pictures, and a card that says so.

calibration  how far confidence is to be believed, and the temperature
scores       answers against labels
figures      pictures of both
card         the model card
report       all of it as files
"""

from physiq_ray.evaluation.calibration import calibration_error, fit_temperature
from physiq_ray.evaluation.card import Facts
from physiq_ray.evaluation.report import write_report
from physiq_ray.evaluation.scores import Answers, Report, score

__all__ = ["Answers", "Facts", "Report", "calibration_error", "fit_temperature", "score", "write_report"]
