"""The intermediate representation: what a network is, as records that everything else reads. No torch."""

from lasfast.ir.builder import LayerBuilder, Value
from lasfast.ir.layers import Layer, Op, Path, Shape, path_shapes
from lasfast.ir.prefix_tree import ROOT, Node, PrefixTree

__all__ = [
    "ROOT",
    "Layer",
    "LayerBuilder",
    "Node",
    "Op",
    "Path",
    "PrefixTree",
    "Shape",
    "Value",
    "path_shapes",
]
