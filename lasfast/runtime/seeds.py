"""Counter-based seeds: all that is random in training is a function of its position.

No state of a generator is carried from one batch to the next, so a run that was interrupted anywhere
continues with the same bits.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(*counters: int, bits: int = 63) -> int:
    """Return a seed of `bits` bits from non-negative counters such as (seed, step, epoch, batch).

    It is a hash (blake2b), so different counters give unrelated seeds.
    """
    packed = struct.pack(f"<{len(counters)}Q", *counters)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> (64 - bits)


@contextmanager
def torch_seed(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Draw from torch's generators as if just seeded with `seed`; their states come back afterwards."""
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.random.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(devices[0]):
                torch.cuda.manual_seed(seed)
        yield
