"""Search methods as ask/tell objects. No torch."""

from lasfast.searchers.base import Searcher
from lasfast.searchers.nir import NIR
from lasfast.searchers.random import Random

__all__ = ["NIR", "Random", "Searcher"]
