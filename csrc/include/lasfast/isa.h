// The instruction sets that CPU micro-kernels are written for, and which of them this build and this machine
// have.
#pragma once

namespace lasfast {

// In rising order of preference.
enum class Isa : int { generic = 0, avx2 = 1, avx512 = 2 };
constexpr int isa_count = 3;

// Lower-case name, as LASFAST_ISA takes it.
const char* isa_name(Isa isa);
// Whether this build holds micro-kernels for it.
bool isa_compiled(Isa isa);
// Whether it is compiled in, and both the processor and the operating system can run it.
bool isa_supported(Isa isa);

}  // namespace lasfast
