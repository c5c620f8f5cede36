"""Costs of an architecture, computed from its layer records; nothing is run or built."""

from lasfast.costs.bitops import bitops, is_quantized, path_bitops
from lasfast.costs.flops import flops, path_flops
from lasfast.costs.latency import LatencyTable
from lasfast.costs.memory import memory, path_memory
from lasfast.costs.params import params, path_params
from lasfast.costs.registry import functions, register
from lasfast.costs.summary import summary

__all__ = [
    "LatencyTable",
    "bitops",
    "flops",
    "functions",
    "is_quantized",
    "memory",
    "params",
    "path_bitops",
    "path_flops",
    "path_memory",
    "path_params",
    "register",
    "summary",
]
