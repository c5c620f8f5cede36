"""How good architectures are: evaluators, recalibration of batch norms, and latencies."""

from lasfast.evaluation.evaluator import Evaluator, evaluate_network
from lasfast.evaluation.recalibration import calibrate
from lasfast.evaluation.standalone import StandaloneEvaluator

__all__ = ["Evaluator", "StandaloneEvaluator", "calibrate", "evaluate_network"]
