"""Which modules may be computed by other means than by calling them."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module as torch_module

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_METHODS = ("forward", "_conv_forward", "_compiled_call_impl")


def is_plain(module: nn.Module) -> bool:
    """Return whether calling a module does what its class says, and nothing else.

    Hooks may change what goes in and out, or make the weights (`torch.nn.utils.prune`, `weight_norm`,
    `spectral_norm`); a method may have been replaced in the module itself. (Parametrizations give a module
    a class of its own.) A module that is not plain is called as it is: what it computes is not read off it.
    """
    attributes = module.__dict__
    for name in _HOOKS:
        if attributes[name]:
            return False
    # As `replaced_methods`, which takes three times as long: each call of a network asks for every layer.
    forward, conv_forward, call = _METHODS
    return (
        attributes.get(forward) is None
        and attributes.get(conv_forward) is None
        and attributes.get(call) is None
    )


def replaced_methods(module: nn.Module) -> list[str]:
    """Return the methods that decide what calling a module computes, and that it has of its own."""
    return [name for name in _METHODS if module.__dict__.get(name) is not None]


def has_global_hooks() -> bool:
    """Return whether hooks are registered that PyTorch calls with every module."""
    return any(getattr(torch_module, f"_global{hooks}") for hooks in _HOOKS)
