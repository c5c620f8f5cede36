"""Studies: a search from its first step to its result and its files; and tables of trained architectures."""

from lasfast.study.result import Measured, StudyResult
from lasfast.study.study import Callback, Study
from lasfast.study.table_builder import TableBuilder

__all__ = ["Callback", "Measured", "Study", "StudyResult", "TableBuilder"]
