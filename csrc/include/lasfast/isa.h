// The instruction sets that CPU micro-kernels are written for, and which of them this build and this machine
// have.
#pragma once

namespace lasfast {

// Each has what those before it have that are of the same processors: x86-64 (avx2 to amx) or 64-bit ARM.
// avx512_bf16 is AVX-512 (F, BW, VL, DQ) with BF16: dense convolutions on bf16 values multiply pairs of
// these, where avx512 and less compute in fp32. amx multiplies them by tiles. neon_bf16 is NEON with BF16,
// and multiplies pairs, too. Where an operation has nothing for an instruction set, that means the one
// before.
enum class Isa : int { generic = 0, avx2 = 1, avx512 = 2, avx512_bf16 = 3, amx = 4, neon = 5, neon_bf16 = 6 };
constexpr int isa_count = 7;

// Returns whether dense convolutions on bf16 values multiply pairs, or tiles, of bf16 values.
inline bool multiplies_bf16(Isa isa) {
  return isa == Isa::avx512_bf16 || isa == Isa::amx || isa == Isa::neon_bf16;
}

// Lower-case name, as LASFAST_ISA takes it.
const char* isa_name(Isa isa);
// Returns whether this build holds micro-kernels for it.
bool isa_compiled(Isa isa);
// Returns whether it is compiled in, and both the processor and the operating system can run it. For
// amx this asks the operating system, once, to let this process use tiles.
bool isa_supported(Isa isa);
// The one to take where nobody says which: the last that is supported, but for avx512_bf16 and neon_bf16
// where this processor multiplies pairs hardly faster than fp32 values, or slower. That is measured at the
// first call, in a tenth of a millisecond.
Isa isa_preferred();

}  // namespace lasfast
