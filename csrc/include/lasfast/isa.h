// The instruction sets that CPU micro-kernels are written for, and which of them this build and this machine
// have.
#pragma once

namespace lasfast {

// In rising order of preference. amx is AVX-512 with its BF16 conversions, and AMX's BF16 tiles for
// convolutions on bf16 values; where an operation has nothing for it, it means avx512.
enum class Isa : int { generic = 0, avx2 = 1, avx512 = 2, amx = 3 };
constexpr int isa_count = 4;

// Lower-case name, as LASFAST_ISA takes it.
const char* isa_name(Isa isa);
// Whether this build holds micro-kernels for it.
bool isa_compiled(Isa isa);
// Whether it is compiled in, and both the processor and the operating system can run it. For
// amx this asks the operating system, once, to let this process use tiles.
bool isa_supported(Isa isa);

}  // namespace lasfast
