"""What an architecture costs, read off its layer records; nothing is run or built."""

from lasfast.costs.flops import flops, path_flops
from lasfast.costs.params import params, path_params

__all__ = ["flops", "params", "path_flops", "path_params"]
