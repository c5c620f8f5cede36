"""Studies: a search from its first step to its result and its files; and tables of trained architectures."""

from lasfast.study.progress_bar import ProgressBar
from lasfast.study.result import Measured, StudyResult
from lasfast.study.study import Callback, Study
from lasfast.study.table_builder import TableBuilder
from lasfast.study.trackers import MLflow, TensorBoard, Tracker

__all__ = [
    "Callback",
    "MLflow",
    "Measured",
    "ProgressBar",
    "Study",
    "StudyResult",
    "TableBuilder",
    "TensorBoard",
    "Tracker",
]
