"""A search from its first step to its result, what it leaves on disk, and tables of trained architectures."""

from lasfast.study.architecture_table import TableBuilder
from lasfast.study.result import Measured, StudyResult
from lasfast.study.study import Callback, Study

__all__ = ["Callback", "Measured", "Study", "StudyResult", "TableBuilder"]
