// What tells whether products of bf16 pairs pay on this processor (see isa_preferred()); both do as many
// instructions, and return what has no meaning. Only where avx512_bf16 is supported.
#pragma once

namespace lasfast {

float multiply_floats(int count);
float multiply_pairs(int count);

}  // namespace lasfast
