"""Evaluation: how good architectures are, recalibration of batch norms, and latencies."""

from lasfast.evaluation.evaluator import Evaluator
from lasfast.evaluation.recalibration import calibrate, update_bn
from lasfast.evaluation.scoring import evaluate_network
from lasfast.evaluation.standalone import StandaloneEvaluator

__all__ = ["Evaluator", "StandaloneEvaluator", "calibrate", "evaluate_network", "update_bn"]
