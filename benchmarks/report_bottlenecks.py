"""The section of docs/performance.md on inverted bottlenecks, from the record of record_bottlenecks."""

from __future__ import annotations

from typing import Any

from benchmarks import _harness

STAGES = {16: 112, 24: 56, 32: 28, 64: 14, 96: 14}
"""The sides of MobileNetV2's values of so many channels, for images of 224 pixels."""

TEXT = """### Inverted bottlenecks as one operation

A 1x1 convolution to six times the channels, a depthwise 3x3 and a 1x1 back could run as one operation, in
tiles of rows, whose wide values never leave the cache. What tiles could gain at most is what layers as they
are gain where images are small: four bottlenecks predicted as many positions in images of several sizes, one
image at a time, as prediction takes few images through all layers before it takes the next. The table says
how many times longer images of a side take than those of {least}x{least}. Below 1, the small ones lose more
by their edges than they gain. In bold are the sides nearest to those in MobileNetV2, for images of 224
pixels. There the first two rows, which have a quarter of its multiply-adds, would gain; of images of 64
pixels or fewer, as in the searches here, no stage would gain anything to speak of. So it was not built.
"""


def bottlenecks(record: dict[str, Any]) -> str:
    """Return the section."""
    machine = record["machine"]
    least, *sides = next(iter(record["channels"].values()))["seconds"]
    cache = f"{record['cache_bytes'] // 1024} KiB of second-level cache for each core"
    lines = [
        TEXT.format(least=least),
        f"{record['precision']}, {machine['processor']}, {machine['native']['isa']['selected']} kernels, one "
        f"thread, {cache}; {_harness.conditions(record)}.\n",
        "| channels | " + " | ".join(f"{side}x{side}" for side in sides) + " |",
        "|---" * (len(sides) + 1) + "|",
    ]
    for channels, one in record["channels"].items():
        own = min(sides, key=lambda side: abs(int(side) - STAGES[int(channels)]))
        cells = (
            f"**{gain:.2f}**" if side == own else f"{gain:.2f}" for side, gain in one["could_gain"].items()
        )
        lines.append(f"| {channels}, {6 * int(channels)} wide | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
