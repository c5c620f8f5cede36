// The loader of convolutions: the rows of A are what the input has under the windows of positions, and those
// of B are rows of a packed weight, both in the order of k_order.cuh.
//
// What the loop over k has to know of that order stands in a table in shared memory, so that it computes no
// addresses: how far each element is from the corner of its window, and a bit for the row and for the column
// of its tap. Each row of A has a mask of the rows and columns of its window that are inside of the image.
// The table has room for a span of steps; most convolutions have one.
#pragma once

#include <type_traits>

#include "conv_mainloop.cuh"
#include "conv_products.cuh"
#include "k_order.cuh"
#include "taps.cuh"

namespace lasfast {

// What a convolution reads, and by what weight.
struct ConvOperands {
  int height, width, pitch;         // of an image; pitch: elements from position to position
  int kernel_height, kernel_width;  // of a window
  bool padded;                      // whether windows may reach beyond the image
  const void* weight;               // [channels, depth], of the tile's first channel on
  int channels, depth;              // channels: those that are left
};

// The window of a position, by its first row and column in an image.
template <typename T>
struct Window {
  const T* image;
  int top, left;
  bool some;  // whether there is such a position
};

// The transform that leaves what is loaded as it is.
struct Unchanged {};

// The table of a span of k.
struct TapTable {
  struct alignas(8) Entry {
    int offset;  // from the corner of a window, in elements
    uint32_t tap;
  };
  Entry entry[block_threads];
  int channel[block_threads];
  ConvOperands conv;  // it stands here, since what is needed once a span would take registers all the time
  int run;

  // Writes the entry of this thread, of element k.
  LASFAST_DEVICE void write(int k) {
    const KElement at(k, conv.kernel_height * conv.kernel_width, run);
    const int row = at.tap / conv.kernel_width, column = at.tap % conv.kernel_width;
    const bool some = at.channel < conv.pitch;
    const uint32_t tap = conv.padded ? 1u << row | 1u << tap_bits << column : first_tap;
    const int thread = device::thread_index();
    entry[thread] = {some ? (row * conv.width + column) * conv.pitch + at.channel : 0, some ? tap : behind_k};
    channel[thread] = at.channel;
  }
};

// The shared memory of a convolution of windows.
template <int BM, int BN, int step_bytes>
struct WindowShared {
  ConvShared<BM, BN, step_bytes> conv;
  TapTable taps;
};

// Each thread copies one piece of 16 bytes of some rows. Where the vectors of channels are not `whole`, it
// gathers the elements of A one by one. Where `transform.some`, transform(at, channel, inside, T{}) is
// applied to each piece of A once it has come; `channel` is that of its first element. What is not `inside`
// of the image has to stay zero.
template <typename T, int BM, int BN, int step_bytes, bool whole, typename Transform>
class WindowLoader {
 public:
  // window_of(row): the window of a row of the tile.
  template <typename WindowOf>
  LASFAST_DEVICE WindowLoader(const ConvOperands& conv, const Transform& transform, TapTable* table,
                              WindowOf window_of)
      : transform_(transform),
        table_(table),
        own_row_(device::settled(row())),
        own_piece_(device::settled(piece_offset<step_bytes>(row(), piece()))),
        weight_steps_((conv.depth - piece() * piece_elements + step_elements - 1) / step_elements) {
    const int run = run_of(conv.pitch, conv_step_bytes / sizeof(T));
    if (device::thread_index() == 0) table->conv = conv, table->run = run;
    // Where each step is of one tap, its pieces share an entry.
    const bool shared = whole && run % step_elements == 0;
    entries_ = device::settled(shared ? 1 : step_elements / unit);
    own_entry_ = device::settled(shared ? 0 : piece() * (piece_elements / unit));
    LASFAST_UNROLL
    for (int i = 0; i < copies; ++i) {
      const Window<T> window = window_of(row() + i * rows_at_once);
      const int top = window.some ? window.top : 0, left = window.some ? window.left : 0;
      corner_[i] = device::settled(window.image + (int64_t{top} * conv.width + left) * conv.pitch +
                                   (shared ? piece() * piece_elements : 0));
      inside_[i] = !window.some   ? 0
                   : !conv.padded ? first_tap
                                  : taps_inside(top, conv.kernel_height, conv.height) |
                                        taps_inside(left, conv.kernel_width, conv.width) << tap_bits;
    }
    LASFAST_UNROLL
    for (int i = 0; i < weight_copies; ++i) {
      // Behind the last channel, that one is copied again: nobody reads those sums.
      const int n = row() + i * rows_at_once, channel = n < conv.channels ? n : conv.channels - 1;
      weight_[i] = device::settled(static_cast<const char*>(conv.weight) +
                                   int64_t{channel} * conv.depth * sizeof(T) + piece() * 16);
    }
  }

  // How many steps a span has, at most.
  LASFAST_DEVICE int span() const { return block_threads / entries_; }

  // Begins the next span, which begins with step `first`. All threads of the block call it, once nobody reads
  // the table any more.
  LASFAST_DEVICE void begin(int first) {
    arrived_ = own_entry_;
    table_->write(first * step_elements + device::thread_index() * (step_elements / entries_));
    if (first == 0) return;
    weight_steps_ -= span();
    LASFAST_UNROLL
    for (int i = 0; i < weight_copies; ++i) weight_[i] += int64_t{span()} * step_bytes;
  }

  // Fills a step of the span. Steps are filled in order.
  LASFAST_DEVICE void fill(Stage<BM, BN, step_bytes>& stage, int step) {
    fill_windows(stage.a, step * entries_ + own_entry_);
    // A row of the weight ends with a multiple of 64 bytes, perhaps in the middle of a step.
    const bool some = step_bytes == conv_step_bytes || step < weight_steps_;
    LASFAST_UNROLL
    for (int i = 0; i < weight_copies; ++i) {
      const char* const from = weight_[i] + int64_t{step} * step_bytes;
      if constexpr (BN < rows_at_once)
        device::copy16_async_if(own_row_ < BN, piece_in(stage.b, i), from, some);
      else
        device::copy16_async(piece_in(stage.b, i), from, some);
    }
  }

  LASFAST_DEVICE void arrived(Stage<BM, BN, step_bytes>& stage) {
    if constexpr (!std::is_same_v<Transform, Unchanged>) {
      if (!transform_.some) return;
      const uint32_t tap = table_->entry[arrived_].tap;
      const int channel = table_->channel[arrived_] + (entries_ == 1 ? piece() * piece_elements : 0);
      LASFAST_UNROLL
      for (int i = 0; i < copies; ++i) transform_(piece_in(stage.a, i), channel, inside(tap, i), T{});
      arrived_ += entries_;
    }
  }

 private:
  static constexpr int pieces = step_bytes / 16;               // in a row of a step
  static constexpr int rows_at_once = block_threads / pieces;  // of which a block's threads copy a piece each
  static_assert(BN % rows_at_once == 0 || BN < rows_at_once,
                "all threads copy as many pieces, or one or none");
  static constexpr int copies = BM / rows_at_once;
  static constexpr int weight_copies = (BN + rows_at_once - 1) / rows_at_once;
  static constexpr int piece_elements = 16 / sizeof(T), step_elements = step_bytes / sizeof(T);
  static constexpr int unit = whole ? piece_elements : 1;  // elements that have an entry, at least

  LASFAST_DEVICE static int piece() { return device::thread_index() % pieces; }
  LASFAST_DEVICE static int row() { return device::thread_index() / pieces; }
  LASFAST_DEVICE char* piece_in(char* rows, int i) const {
    static_assert(rows_at_once % 8 == 0, "these rows are permuted alike");
    return rows + own_piece_ + i * rows_at_once * step_bytes;
  }

  LASFAST_DEVICE bool inside(uint32_t tap, int i) const { return (tap & ~inside_[i]) == 0; }

  // Nothing is read through an address outside of the image.
  LASFAST_DEVICE void fill_windows(char* rows, int entry) const {
    if constexpr (whole) {
      const TapTable::Entry at = table_->entry[entry];
      LASFAST_UNROLL
      for (int i = 0; i < copies; ++i)
        device::copy16_async_cached(piece_in(rows, i), corner_[i] + at.offset, inside(at.tap, i));
    } else {
      Values<piece_elements> values[copies];
      LASFAST_UNROLL
      for (int e = 0; e < piece_elements; ++e) {
        const TapTable::Entry at = table_->entry[entry + e];
        LASFAST_UNROLL
        for (int i = 0; i < copies; ++i)
          values[i].v[e] = inside(at.tap, i) ? device::to_float(corner_[i][at.offset]) : 0.f;
      }
      LASFAST_UNROLL
      for (int i = 0; i < copies; ++i) device::store16(piece_in(rows, i), pack_values(values[i]));
    }
  }

  Transform transform_;
  TapTable* table_;
  int own_row_, own_piece_;            // this thread's first row, and where its piece is, in bytes
  int entries_, own_entry_;            // of a step; this thread's first among them
  const T* corner_[copies];            // the first element of each window, perhaps outside of the image
  uint32_t inside_[copies];            // the rows and columns of each window that are inside
  const char* weight_[weight_copies];  // this thread's pieces of B in the span's first step
  int weight_steps_;                   // how many steps have these pieces, from that one on
  int arrived_ = 0;                    // this thread's entry of the step to arrive next
};

// Computes a tile of a convolution from `steps` steps of k: see convolve() in conv_mainloop.cuh.
template <typename Product, int BM, int BN, int step_bytes, typename Loader, typename Epilogue>
LASFAST_DEVICE void convolve_windows(WindowShared<BM, BN, step_bytes>& shared, int steps, Loader& loader,
                                     Epilogue epilogue) {
  Product product;
  const int span = loader.span();
  LASFAST_ROLL
  for (int first = 0; first < steps; first += span) {
    device::barrier();  // everybody is done with the span before
    loader.begin(first);
    device::barrier();
    add_steps(product, shared.conv.stage, first + span < steps ? span : steps - first, loader);
  }
  finish_tile(product, shared.conv, epilogue);
}

}  // namespace lasfast
