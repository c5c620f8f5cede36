"""The style that all pictures share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, whose colors everybody can tell apart, even in gray.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
GRAY = "#9a9a9a"


def plain(axes: Axes) -> None:
    """Remove the frame that carries no information, and add a light grid to read values by."""
    axes.grid(axis="y", linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)
