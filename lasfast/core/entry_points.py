"""Names of things in higher layers that lower layers start or load without importing them.

The front door, `lasfast/__init__.py`, knows all layers and registers the names; each is for one purpose.
"""

from __future__ import annotations

CHECK_COMMAND = "check command"
"""Purpose: the arguments of Python that check the kernels on a device, whose name follows them."""
AUTOTUNED_MODULES = "autotuned modules"
"""Purpose: the modules that register ways with `lasfast.runtime.autotune` when they are imported."""

_registered: dict[str, tuple[str, ...]] = {}


def register(purpose: str, *names: str) -> None:
    """Set the names for a purpose."""
    _registered[purpose] = names


def names(purpose: str) -> tuple[str, ...]:
    """Return the names for a purpose, in the order in which they were registered; none if nobody did."""
    return _registered.get(purpose, ())
