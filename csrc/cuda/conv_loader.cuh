// The loader of convolutions: the rows of A are what the input has under the windows of positions, and those
// of B are rows of a packed weight, both in the order of k_order.cuh.
#pragma once

#include <type_traits>

#include "conv_mainloop.cuh"
#include "conv_products.cuh"
#include "k_order.cuh"

namespace lasfast {

// What a convolution reads, and by what weight.
struct ConvOperands {
  int height, width, pitch;         // of an image; pitch: elements from position to position
  int kernel_height, kernel_width;  // of a window
  const void* weight;               // [channels, depth], of the tile's first channel on
  int channels, depth;              // channels: those that are left
};

// The window of a position, by its first row and column in an image.
template <typename T>
struct Window {
  const T* image;
  int top, left;
};
constexpr int in_padding = -(1 << 30);  // the top of a window that sees nothing but padding

// The transform that leaves what is loaded as it is.
struct Unchanged {};

// Each thread copies one piece of 16 bytes of some rows. Where the vectors of channels are not `whole`, it
// gathers the elements of A one by one. Where `transform.some`, transform(at, channel, T{}) is applied to
// each piece of A once it has come, unless it is padding; `channel` is that of its first element.
template <typename T, int BM, int BN, bool whole, typename Transform>
class WindowLoader {
 public:
  // window_of(row): the window of a row of the tile.
  template <typename WindowOf>
  LASFAST_DEVICE WindowLoader(const ConvOperands& conv, const Transform& transform, WindowOf window_of)
      : conv_(conv), transform_(transform), ahead_(run_of(conv.pitch, step_elements)), here_(ahead_) {
    LASFAST_UNROLL
    for (int i = 0; i < copies; ++i) {
      window_[i] = window_of(row() + i * rows_at_once);
      const int top = window_[i].top == in_padding ? 0 : window_[i].top;
      corner_[i] = window_[i].image + (int64_t{top} * conv.width + window_[i].left) * conv.pitch;
    }
    for (int i = 0; i < piece(); ++i)
      ahead_.template advance<piece_elements>(conv.kernel_width, conv.kernel_height);
    here_ = ahead_;
    const int n = row() < conv.channels ? row() : 0;
    weight_ = static_cast<const T*>(conv.weight) + int64_t{n} * conv.depth + piece() * piece_elements;
  }

  // Steps are filled in order.
  LASFAST_DEVICE void fill(Stage<BM, BN>& stage, int) {
    const int64_t offset = offset_of(ahead_);
    LASFAST_UNROLL
    for (int i = 0; i < copies; ++i) fill_window(piece_in(stage.a, i), i, offset);
    LASFAST_UNROLL
    for (int i = 0; i < (BN + rows_at_once - 1) / rows_at_once; ++i) {
      const int n = row() + i * rows_at_once;
      if (BN % rows_at_once != 0 && n >= BN) break;
      const bool some = n < conv_.channels;
      device::copy16_async(piece_in(stage.b, i), weight_ + int64_t{i} * rows_at_once * conv_.depth, some);
    }
    weight_ += step_elements;
    ahead_.template advance<step_elements>(conv_.kernel_width, conv_.kernel_height);
  }

  LASFAST_DEVICE void arrived(Stage<BM, BN>& stage) {
    if constexpr (!std::is_same_v<Transform, Unchanged>) {
      if (!transform_.some) return;
      LASFAST_UNROLL
      for (int i = 0; i < copies; ++i)
        if (inside(here_, i)) transform_(piece_in(stage.a, i), here_.channel, T{});
      here_.template advance<step_elements>(conv_.kernel_width, conv_.kernel_height);
    }
  }

 private:
  static constexpr int copies = BM / rows_at_once;
  static constexpr int piece_elements = 16 / sizeof(T), step_elements = conv_step_bytes / sizeof(T);

  LASFAST_DEVICE static int piece() { return device::thread_index() % pieces; }
  LASFAST_DEVICE static int row() { return device::thread_index() / pieces; }
  LASFAST_DEVICE static char* piece_in(char* rows, int i) {
    return rows + piece_offset(row() + i * rows_at_once, piece());
  }

  LASFAST_DEVICE bool inside(const Walk& at, int i) const {
    const int y = window_[i].top + at.row, x = window_[i].left + at.column;
    return at.channel < conv_.pitch && y >= 0 && y < conv_.height && x >= 0 && x < conv_.width;
  }
  // Returns how far an element is from the corner of any window, in elements.
  LASFAST_DEVICE int64_t offset_of(const Walk& at) const {
    return (int64_t{at.row} * conv_.width + at.column) * conv_.pitch + at.channel;
  }

  // Nothing is read through an address outside of the image.
  LASFAST_DEVICE void fill_window(char* to, int i, int64_t offset) const {
    if constexpr (whole) {
      device::copy16_async_cached(to, corner_[i] + offset, inside(ahead_, i));
    } else {
      Walk at = ahead_;
      Values<piece_elements> values;
      LASFAST_UNROLL
      for (int e = 0; e < piece_elements; ++e) {
        values.v[e] = inside(at, i) ? device::to_float(corner_[i][offset_of(at)]) : 0.f;
        at.advance<1>(conv_.kernel_width, conv_.kernel_height);
      }
      device::store16(to, pack_values(values));
    }
  }

  ConvOperands conv_;
  Transform transform_;
  Window<T> window_[copies];
  const T* corner_[copies];  // the first element of each window, perhaps outside of the image
  const T* weight_;          // this thread's piece of its first row of B in the next step
  Walk ahead_, here_;  // of this thread's piece: in the step to fill next, and in the one to arrive next
};

}  // namespace lasfast
