"""How good architectures were found to be: measurements, their journal, ranks, races and tables. No torch."""

from lasfast.measurements.journal import Journal, JournalError
from lasfast.measurements.measurement import Measurement, as_value, paired_difference
from lasfast.measurements.racing import Race, RaceResult
from lasfast.measurements.tabular import ArchitectureTable, Schema, TabularEvaluator

__all__ = [
    "ArchitectureTable",
    "Journal",
    "JournalError",
    "Measurement",
    "Race",
    "RaceResult",
    "Schema",
    "TabularEvaluator",
    "as_value",
    "paired_difference",
]
