// How a block of threads divides its work, in the kernels of a schedule and of passes over NHWC values.
#pragma once

namespace lasfast {

constexpr int block_threads = 256;
constexpr int chunk = 8;             // channels that a thread handles together
constexpr int pooled_tiles = 32;     // tiles whose statistics a block pools: a group
constexpr int conv_step_bytes = 64;  // of k: what a convolution multiplies at a time, of each row

}  // namespace lasfast
