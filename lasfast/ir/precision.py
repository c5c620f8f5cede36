"""The precisions that networks run in: one table, by the name that users give."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Precision:
    """A way to store values; sums are fp32 in all of them.

    Attributes:
        code: its number in native code (`Dtype` in csrc/include/lasfast/dtype.h).
        bytes: of one value.
        dtype: the name of torch's dtype.
    """

    code: int
    bytes: int
    dtype: str


PRECISIONS: dict[str, Precision] = {
    "fp32": Precision(0, 4, "float32"),
    "bf16": Precision(1, 2, "bfloat16"),
}
