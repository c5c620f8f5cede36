"""The instruction sets that CPU kernels are tested with are this build's; tests skip what a machine lacks."""

from __future__ import annotations

from lasfast.runtime import compiled

ISAS: list[str] = compiled.load().isas_compiled() if compiled.available() else ["generic"]
BF16_ISAS = [isa for isa in ISAS if isa in ("avx512_bf16", "amx", "neon_bf16")]
"""Those that multiply bf16 values."""
