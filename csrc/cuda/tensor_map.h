// Tensor maps: by what Hopper copies pieces of a tensor of bf16 to shared memory (PTX, "tensor map"; TMA).
//
// A copy brings 64 channels or elements of so many positions or rows, 128 bytes of each, as lines of 128
// bytes whose pieces are permuted (conv_products.cuh); the first is at a multiple of 1024 bytes. What lies
// beyond the tensor is zero. Whether a description can be made is for the driver to say.
#pragma once

#include <cstdint>

namespace lasfast::device {

constexpr int mapped_elements = 64;  // that a copy brings of each position or row

struct alignas(64) TensorMap {
  uint64_t opaque[16];
};

// Describes, of NHWC images, what the windows of a convolution have under any of their taps. Windows are
// numbered by image, row and column; a copy is of `positions` of them.
struct WindowsMap {
  const void* values;
  int64_t images;
  int height, width, channels;
  int out_height, out_width, stride, padding;
  int positions;
};

// Describes rows of `depth` elements. A copy is of `together` of them.
struct RowsMap {
  const void* values;
  int64_t rows, depth;
  int together;
};

// Returns where the last of so many windows along an axis begins.
constexpr int last_window(int windows, int stride, int padding) { return (windows - 1) * stride - padding; }

// These return the runtime's or the driver's error number, 0 for none. Values lie on the current device.
int describe(const WindowsMap& windows, TensorMap* map);
int describe(const RowsMap& rows, TensorMap* map);

}  // namespace lasfast::device
