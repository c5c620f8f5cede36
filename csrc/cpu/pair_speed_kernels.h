// What tells whether products of bf16 pairs pay on this processor (see isa_preferred()); both do as many
// instructions. Only where avx512_bf16 is supported.
#pragma once

namespace lasfast {

void multiply_floats(int count);
void multiply_pairs(int count);

}  // namespace lasfast
