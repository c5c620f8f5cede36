"""Reports: tables and pictures of a study, finished or not, from the files that it wrote."""

from lasfast.report.candidates import write_candidates
from lasfast.report.cells import cells_table, pruned_so_far, space_of
from lasfast.report.inheritance import inheritance_table, inheritance_text, plot_inheritance
from lasfast.report.leave import leave
from lasfast.report.page import write_page
from lasfast.report.plot import plot_search
from lasfast.report.regret import plot_regret
from lasfast.report.run import Candidate, Run, candidates_of
from lasfast.report.tables import (
    certainty_text,
    choice_text,
    comparison_table,
    comparison_text,
    end_text,
    front_table,
    ranking_table,
    unknown_noise_text,
    winners_table,
)

__all__ = [
    "Candidate",
    "Run",
    "candidates_of",
    "cells_table",
    "certainty_text",
    "choice_text",
    "comparison_table",
    "comparison_text",
    "end_text",
    "front_table",
    "inheritance_table",
    "inheritance_text",
    "leave",
    "plot_inheritance",
    "plot_regret",
    "plot_search",
    "pruned_so_far",
    "ranking_table",
    "space_of",
    "unknown_noise_text",
    "winners_table",
    "write_candidates",
    "write_page",
]
