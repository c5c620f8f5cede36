"""Measurements of architectures: their journal, rank correlations, races, tables of known ones. No torch."""

from lasfast.measurements.evaluation import Evaluation
from lasfast.measurements.inheritance import Inheritance, inheritance
from lasfast.measurements.journal import Journal, JournalError
from lasfast.measurements.measurement import Measurement, as_value, paired_difference
from lasfast.measurements.racing import Race, RaceResult
from lasfast.measurements.schema import Schema
from lasfast.measurements.table import ArchitectureTable
from lasfast.measurements.tabular import TabularEvaluator

__all__ = [
    "ArchitectureTable",
    "Evaluation",
    "Inheritance",
    "Journal",
    "JournalError",
    "Measurement",
    "Race",
    "RaceResult",
    "Schema",
    "TabularEvaluator",
    "as_value",
    "inheritance",
    "paired_difference",
]
