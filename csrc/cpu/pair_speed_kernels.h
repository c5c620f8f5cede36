// Two loops of as many instructions, whose times tell whether products of bf16 pairs pay on this processor
// (see isa_preferred()). What they return has no meaning. They run only where avx512_bf16
// or neon_bf16 is supported.
#pragma once

namespace lasfast {

float multiply_floats(int count);
float multiply_pairs(int count);

}  // namespace lasfast
