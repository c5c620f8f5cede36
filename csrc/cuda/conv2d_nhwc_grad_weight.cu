// The gradient of a convolution's weight in training, by the main loop of conv_mainloop.cuh: rows are (tap,
// input channel), columns output channels, and k is output positions, 32 (bf16) or 16 (fp32) at a time.
//
// The positions are cut into parts that run at once and leave their sums in the workspace, where
// merge_nhwc.cu adds them. How many parts there are depends on sizes alone, so that results have the same
// bits every time, on any GPU of one kind.
#include "conv2d_nhwc.cuh"
#include "conv_mainloop.cuh"
#include "conv_transposed_products.cuh"
#include "taps.cuh"

namespace lasfast {
namespace {

constexpr int wanted_tiles = 512;   // they fill a large chip a few times
constexpr int worth_a_part = 512;   // positions that a part has at least
constexpr int step_positions = 32;  // parts have a multiple of so many positions

struct GradWeightArgs {
  const void *grad_output, *input;
  float* partial;  // [parts][kernel, kernel, c_in][c_out]
  Grid grid;       // of output positions
  int height, width, c_in, c_out;
  int kernel, stride, padding, rows;
  int input_bytes, grad_output_bytes;  // of a position
  int positions, each;                 // of a part
  int row_tiles, column_tiles;
  bool warpgroups;  // whether they are wanted; taken where all can be read 16 bytes at a time
};

// A row of the product: an element of the weight of one output channel.
struct Element {
  int row, column, channel;

  LASFAST_DEVICE void next(int channels, int kernel) {
    if (++channel < channels) return;
    channel = 0;
    if (++column == kernel) column = 0, ++row;
  }
  // Its tap's bits; behind the last tap they are in no mask.
  LASFAST_DEVICE uint32_t tap(int kernel) const {
    return row < kernel ? 1u << row | 1u << tap_bits << column : behind_k;
  }
};

// What a thread copies of a step of an operand that is `width` elements wide: piece() of rows first_k(),
// first_k() + down, ...
template <typename T, int width, typename Product>
struct Share {
  using Layout = typename Product::template Layout<width>;
  static constexpr int elements = 16 / sizeof(T);
  static constexpr int across = width / elements, down = block_threads / across;
  static constexpr int depth = Product::step_bytes / sizeof(T);
  static constexpr int copies = down < depth ? depth / down : 1;
  static_assert(down % 8 == 0, "these rows turn their pieces alike");

  LASFAST_DEVICE static int piece() { return device::thread_index() % across; }
  LASFAST_DEVICE static int first_k() { return device::thread_index() / across; }
  LASFAST_DEVICE static int first_offset() { return Layout::offset(first_k(), piece() * 16); }
  // Calls run(k behind the first, bytes behind the first) for each.
  template <typename Run>
  LASFAST_DEVICE static void for_pieces(Run run) {
    if (down > depth && first_k() >= depth) return;
    LASFAST_UNROLL
    for (int i = 0; i < copies; ++i) run(i * down, i * down * Layout::row_bytes);
  }
};

// The window of a position: the number of its first place among all positions of the input, modulo 2^32,
// which may be outside of the image, and its rows and columns that are inside.
struct alignas(8) Window {
  uint32_t place, inside;
};

// The windows of the positions of a batch, one for each thread of the block, and of the batch before.
struct Windows {
  Window at[2 * block_threads];
  int begin, end;  // positions of the part; they stand here, since they are rarely needed
};

// The loader: k is positions, A what the input has under their windows, and B the gradient of the output.
// Where the vectors of channels are not `whole`, elements are gathered one by one. For TF32, each thread
// rounds what it has copied, once for all warps that read it.
//
// Many threads copy from one window. Threads find a window each, for all steps of a batch of positions, while
// the batch before is copied.
template <typename T, int BN, bool whole, typename Product>
class PositionsLoader {
 public:
  using A = Share<T, conv_rows, Product>;
  using B = Share<T, BN, Product>;
  using Operands = Stage<conv_rows, BN, Product::step_bytes>;

  // All threads of the block call it.
  LASFAST_DEVICE PositionsLoader(const GradWeightArgs& args, Windows* windows, int begin, int end,
                                 int first_row, int first_column)
      : args_(args),
        windows_(windows),
        offset_a_(A::first_offset()),
        offset_b_(B::first_offset()),
        rest_b_(end - begin - B::first_k()) {
    const int row = first_row + A::piece() * elements, tap = row / args.c_in;
    element_ = {tap / args.kernel, tap % args.kernel, row % args.c_in};
    tap_ = element_.tap(args.kernel);
    under_ = device::settled(address_of(element_, 0));
    const int column = first_column + B::piece() * elements;
    columns_ = args.c_out - column;
    if (columns_ <= 0) rest_b_ = 0;
    beside_ = device::settled(device::item_address(static_cast<const char*>(args.grad_output),
                                                   begin + B::first_k(), args.grad_output_bytes) +
                              column * int64_t{sizeof(T)});
    if (device::thread_index() == 0) windows->begin = begin, windows->end = end;
    device::barrier();
    find_windows(0);
    device::barrier();
  }

  // Fills a step. Steps are filled in order, and between those of one batch and of the next but one all
  // threads pass a barrier.
  LASFAST_DEVICE void fill(Operands& stage, int step) {
    const int first = step * A::depth;
    if (first % block_threads == 0) find_windows(first + block_threads);
    const Window* const at = windows_->at + first % (2 * block_threads) + A::first_k();
    Window windows[A::copies];  // read before anything is copied: in turns, each read would wait for a copy
    LASFAST_UNROLL
    for (int i = 0; i < A::copies; ++i) windows[i] = at[i * A::down];
    A::for_pieces([&](int k, int bytes) { fill_input(stage.a + offset_a_ + bytes, windows[k / A::down]); });
    B::for_pieces([&](int k, int bytes) { fill_grad_output(stage.b + offset_b_ + bytes, first + k); });
  }
  LASFAST_DEVICE void arrived(Operands& stage) const {
    if constexpr (whole && tf32) {
      A::for_pieces([&](int, int bytes) { round(stage.a + offset_a_ + bytes); });
      B::for_pieces([&](int, int bytes) { round(stage.b + offset_b_ + bytes); });
    }
  }

 private:
  static constexpr int elements = 16 / sizeof(T);
  static constexpr bool tf32 = Product::tensor_cores && sizeof(T) == 4;
  static_assert(block_threads % A::depth == 0, "batches are of whole steps");

  // Finds the windows of the batch from position `first` of the part on.
  LASFAST_DEVICE void find_windows(int first) {
    const int thread = device::thread_index(), number = windows_->begin + first + thread;
    Window window{0, 0};
    if (number < windows_->end) {
      const Grid::Position at = args_.grid(number);
      const int top = at.y * args_.stride - args_.padding, left = at.x * args_.stride - args_.padding;
      window.place = static_cast<uint32_t>((at.image * int64_t{args_.height} + top) * args_.width + left);
      window.inside = taps_inside(top, args_.kernel, args_.height) |
                      taps_inside(left, args_.kernel, args_.width) << tap_bits;
    }
    windows_->at[first % (2 * block_threads) + thread] = window;
  }

  // The address of an element of a window, perhaps outside of the image: then nothing is read there.
  LASFAST_DEVICE const char* address_of(const Element& e, int place) const {
    return device::item_address(static_cast<const char*>(args_.input), place + e.row * args_.width + e.column,
                                args_.input_bytes) +
           e.channel * int64_t{sizeof(T)};
  }

  LASFAST_DEVICE void fill_input(char* to, const Window& window) const {
    const int place = static_cast<int>(window.place);
    if constexpr (whole) {
      device::copy16_async(to, device::item_address(under_, place, args_.input_bytes),
                           (tap_ & ~window.inside) == 0);
    } else {
      Element e = element_;
      Values<elements> values;
      LASFAST_UNROLL
      for (int i = 0; i < elements; ++i) {
        const bool inside = (e.tap(args_.kernel) & ~window.inside) == 0;
        const auto* const from = reinterpret_cast<const T*>(address_of(e, place));
        values.v[i] = inside ? device::to_float(*from) : 0.f;
        e.next(args_.c_in, args_.kernel);
      }
      store(to, values);
    }
  }
  LASFAST_DEVICE void fill_grad_output(char* to, int number) const {
    const char* const at = device::item_address(beside_, number, args_.grad_output_bytes);
    if constexpr (whole)
      device::copy16_async(to, at, number < rest_b_);
    else
      store(to, load_first<elements>(reinterpret_cast<const T*>(at), number < rest_b_ ? columns_ : 0));
  }

  LASFAST_DEVICE static void store(char* to, const Values<elements>& values) {
    device::Bits16 bits = pack_values(values);
    if constexpr (tf32) round(bits);
    device::store16(to, bits);
  }
  LASFAST_DEVICE static void round(device::Bits16& bits) {
    LASFAST_UNROLL
    for (int i = 0; i < 4; ++i) bits.word[i] = device::round_to_tf32(bits.word[i]);
  }
  LASFAST_DEVICE static void round(char* at) {
    device::Bits16 bits = device::load16_shared(at);
    round(bits);
    device::store16(at, bits);
  }

  const GradWeightArgs& args_;
  Windows* windows_;
  int offset_a_, offset_b_;  // of the thread's first pieces, in bytes
  int rest_b_;               // positions from the first on that there are for the thread's pieces of B
  Element element_;          // the first of a piece of A
  uint32_t tap_;             // of this element
  int columns_;              // channels from the first of a piece of B on
  const char* under_;        // this element of the window at the input's first place
  const char* beside_;       // the thread's first piece of B
};

// The shared memory of a block.
template <int BN, int step_bytes>
struct Shared {
  ConvShared<conv_rows, BN, step_bytes> conv;
  Windows windows;
};

template <typename T, int BN, bool whole, bool warpgroups,
          template <typename, int, int, int, int> class ProductOf>
LASFAST_DEVICE void grad_weight_tile(const GradWeightArgs& args) {
  using G = Geometry<conv_rows, BN, warpgroups>;
  using Product = ProductOf<T, conv_rows, BN, G::rows, G::columns>;
  using Loader = PositionsLoader<T, BN, whole, Product>;
  device::note_tile("grad_weight", Product::name, conv_rows, BN, whole);
  device::let_next_begin();
  const int64_t block = device::block_index();
  const int first_column = static_cast<int>(block % args.column_tiles) * BN;
  const int first_row = static_cast<int>(block / args.column_tiles % args.row_tiles) * conv_rows;
  const int64_t part = block / args.column_tiles / args.row_tiles;
  const int begin = static_cast<int>(part * args.each);
  const int end = begin + args.each < args.positions ? begin + args.each : args.positions;

  auto* const shared = device::shared<Shared<BN, Product::step_bytes>>();
  Loader loader(args, &shared->windows, begin, end, first_row, first_column);
  const int steps = (end - begin + Loader::A::depth - 1) / Loader::A::depth;
  device::wait_for_earlier();
  convolve<Product>(shared->conv, steps, loader, [&](const auto& result) {
    float* const partial = args.partial + part * args.rows * args.c_out;
    for (int i = device::thread_index(); i < conv_rows * BN; i += block_threads) {
      const int m = i / BN, n = i % BN;
      if (first_row + m < args.rows && first_column + n < args.c_out)
        partial[int64_t{first_row + m} * args.c_out + first_column + n] = result.values[m * result.pitch + n];
    }
  });
}

// See blocks_of in schedule_conv.cu. Elements of TF32, and those that are gathered, take more registers.
template <typename T, int BN, bool whole>
constexpr int blocks_of(bool tensor_cores) {
  if (tensor_cores && whole && BN == 32) return 3;
  const int most = tensor_cores && sizeof(T) == 4 ? 64 : 128;
  return BN <= (whole ? most : most / 2) ? 2 : 1;
}

template <typename T, int BN, bool whole, template <typename, int, int, int, int> class Product>
LASFAST_KERNEL(block_threads, (blocks_of<T, BN, whole>(Product<T, 128, 128, 32, 32>::tensor_cores)))
grad_weight(const GradWeightArgs args) {
  grad_weight_tile<T, BN, whole, false, Product>(args);
}

// See warpgroup_conv in schedule_conv.cu: where there are no warpgroups, no block of this is launched.
template <typename T, int BN>
LASFAST_KERNEL(device::has_warpgroups ? block_threads : 32, 2)
warpgroup_grad_weight(const GradWeightArgs args) {
  if constexpr (device::has_warpgroups) grad_weight_tile<T, BN, true, true, TransposedWarpgroupProduct>(args);
}

template <typename T, template <typename, int, int, int, int> class Product, int BN>
int launch_of(const GradWeightArgs& args, int64_t blocks, device::Stream stream) {
  const bool whole =
      is_whole(args.input, args.c_in, sizeof(T)) && is_whole(args.grad_output, args.c_out, sizeof(T));
  auto* kernel = whole ? grad_weight<T, BN, true, Product> : grad_weight<T, BN, false, Product>;
  int64_t bytes = sizeof(Shared<BN, conv_step_bytes>);
  if constexpr (sizeof(T) == 2 && BN >= 64) {
    if (whole && args.warpgroups) {
      kernel = warpgroup_grad_weight<T, BN>;
      bytes = sizeof(Shared<BN, TransposedWarpgroupProduct<T, conv_rows, BN, 64, BN>::step_bytes>);
    }
  }
  return device::launch(kernel, blocks, block_threads, bytes, stream, args);
}

template <typename T, template <typename, int, int, int, int> class Product>
int launch_of(const GradWeightArgs& args, int columns, int64_t blocks, device::Stream stream) {
  switch (columns) {
    case 32:
      return launch_of<T, Product, 32>(args, blocks, stream);
    case 64:
      return launch_of<T, Product, 64>(args, blocks, stream);
    default:
      return launch_of<T, Product, 128>(args, blocks, stream);
  }
}

}  // namespace

GradWeightTiling::GradWeightTiling(const Conv2dNhwcParams& p)
    : columns(p.c_out <= 32   ? 32
              : p.c_out <= 64 ? 64
                              : 128),
      row_tiles(divide_up(p.kernel * p.kernel * p.c_in, conv_rows)),
      column_tiles(divide_up(p.c_out, columns)) {
  const int64_t positions = p.batch * p.out_height * p.out_width, tiles = row_tiles * column_tiles;
  int64_t wanted = tiles > 0 ? wanted_tiles / tiles : 1;
  if (wanted > positions / worth_a_part) wanted = positions / worth_a_part;
  if (wanted < 1) wanted = 1;
  each = divide_up(divide_up(positions, wanted), step_positions) * step_positions;
  parts = positions > 0 ? divide_up(positions, each) : 1;
}

int launch_grad_weight(const Conv2dNhwcParams& p, const GradWeightTiling& tiling, const void* grad_output,
                       const void* input, float* partial, device::Stream stream) {
  const GradWeightArgs args{grad_output,
                            input,
                            partial,
                            {Divisor(p.out_width), Divisor(p.out_height)},
                            static_cast<int>(p.height),
                            static_cast<int>(p.width),
                            static_cast<int>(p.c_in),
                            static_cast<int>(p.c_out),
                            static_cast<int>(p.kernel),
                            static_cast<int>(p.stride),
                            static_cast<int>(p.padding),
                            static_cast<int>(p.kernel * p.kernel * p.c_in),
                            static_cast<int>(p.c_in * itemsize(p.storage)),
                            static_cast<int>(p.c_out * itemsize(p.storage)),
                            static_cast<int>(p.batch * p.out_height * p.out_width),
                            static_cast<int>(tiling.each),
                            static_cast<int>(tiling.row_tiles),
                            static_cast<int>(tiling.column_tiles),
                            p.warpgroups};
  const int64_t blocks = tiling.parts * tiling.row_tiles * tiling.column_tiles;
  if (p.storage == Dtype::bfloat16)
    return launch_of<device::bfloat16, TransposedTensorProduct>(args, tiling.columns, blocks, stream);
  return p.tf32 ? launch_of<float, TransposedTensorProduct>(args, tiling.columns, blocks, stream)
                : launch_of<float, TransposedExactProduct>(args, tiling.columns, blocks, stream);
}

}  // namespace lasfast
