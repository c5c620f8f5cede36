"""Search methods, which propose architectures and learn from their values. No torch."""

from lasfast.searchers.base import Searcher
from lasfast.searchers.evolution import Evolution, RegularizedEvolution
from lasfast.searchers.itnas import ITNAS
from lasfast.searchers.layernas import LayerNAS
from lasfast.searchers.local import LocalSearch
from lasfast.searchers.nir import NIR
from lasfast.searchers.pareto import ParetoLocalSearch
from lasfast.searchers.predictor import Predictor
from lasfast.searchers.random import Random

__all__ = [
    "ITNAS",
    "NIR",
    "Evolution",
    "LayerNAS",
    "LocalSearch",
    "ParetoLocalSearch",
    "Predictor",
    "Random",
    "RegularizedEvolution",
    "Searcher",
]
