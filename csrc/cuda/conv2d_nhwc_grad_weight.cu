// The gradient of a convolution's weight in training, by the main loop of conv_mainloop.cuh: rows are (tap,
// input channel), columns output channels, and k is output positions, 32 (bf16) or 16 (fp32) at a time.
//
// The positions are cut into parts that run at once and leave their sums in the workspace, where
// merge_nhwc.cu adds them. How many parts there are depends on sizes alone, so that results have the same
// bits every time, on any GPU of one kind.
#include "conv2d_nhwc.cuh"
#include "conv_mainloop.cuh"
#include "conv_transposed_products.cuh"

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
  int positions, each;  // of a part
  int row_tiles, column_tiles;
};

// A row of the product: an element of the weight of one output channel.
struct Element {
  int row, column, channel;

  LASFAST_DEVICE void next(int channels, int kernel) {
    if (++channel < channels) return;
    channel = 0;
    if (++column == kernel) column = 0, ++row;
  }
};

// What a thread copies of a step of an operand that is `width` elements wide: piece() of rows k(0), k(1), ...
template <typename T, int width>
struct Share {
  static constexpr int elements = 16 / sizeof(T);
  static constexpr int across = width / elements, down = block_threads / across;
  static constexpr int depth = conv_step_bytes / sizeof(T);
  static constexpr int copies = down < depth ? depth / down : 1;

  LASFAST_DEVICE static int piece() { return device::thread_index() % across; }
  LASFAST_DEVICE static int k(int i) { return device::thread_index() / across + i * down; }
};

// The loader: k is positions, A what the input has under their windows, and B the gradient of the output.
// Where the vectors of channels are not `whole`, elements are gathered one by one.
template <typename T, int BN, bool whole>
struct PositionsLoader {
  using A = Share<T, conv_rows>;
  using B = Share<T, BN>;
  static constexpr int elements = 16 / sizeof(T);
  const GradWeightArgs& args;
  int begin, end;   // positions
  Element element;  // the first of the thread's piece of A
  int column;       // the same of B

  LASFAST_DEVICE void fill(Stage<conv_rows, BN>& stage, int step) const {
    LASFAST_UNROLL
    for (int i = 0; i < A::copies; ++i)
      fill_input(stage.a + transposed_offset<T, conv_rows>(A::k(i), A::piece()),
                 begin + step * A::depth + A::k(i));
    LASFAST_UNROLL
    for (int i = 0; i < B::copies; ++i) {
      if (B::k(i) >= B::depth) break;
      fill_grad_output(stage.b + transposed_offset<T, BN>(B::k(i), B::piece()),
                       begin + step * B::depth + B::k(i));
    }
  }
  LASFAST_DEVICE void arrived(Stage<conv_rows, BN>&) const {}

 private:
  LASFAST_DEVICE void fill_input(char* to, int position) const {
    const auto* const input = static_cast<const T*>(args.input);
    const Grid::Position at = args.grid(position);
    const int top = at.y * args.stride - args.padding, left = at.x * args.stride - args.padding;
    const auto inside = [&](const Element& e) {
      const int y = top + e.row, x = left + e.column;
      return position < end && e.row < args.kernel && y >= 0 && y < args.height && x >= 0 && x < args.width;
    };
    const auto address = [&](const Element& e) {
      const int64_t line = int64_t{at.image} * args.height + top + e.row;
      return input + (line * args.width + left + e.column) * args.c_in + e.channel;
    };
    if constexpr (whole) {
      const bool some = inside(element);
      device::copy16_async(to, some ? address(element) : input, some);
    } else {
      Element e = element;
      Values<elements> values;
      LASFAST_UNROLL
      for (int i = 0; i < elements; ++i) {
        values.v[i] = inside(e) ? device::to_float(*address(e)) : 0.f;
        e.next(args.c_in, args.kernel);
      }
      device::store16(to, pack_values(values));
    }
  }
  LASFAST_DEVICE void fill_grad_output(char* to, int position) const {
    const auto* const grad_output = static_cast<const T*>(args.grad_output);
    const T* const from = grad_output + int64_t{position} * args.c_out + column;
    if constexpr (whole) {
      const bool some = position < end && column < args.c_out;
      device::copy16_async(to, some ? from : grad_output, some);
    } else {
      Values<elements> values;
      LASFAST_UNROLL
      for (int i = 0; i < elements; ++i)
        values.v[i] = position < end && column + i < args.c_out ? device::to_float(from[i]) : 0.f;
      device::store16(to, pack_values(values));
    }
  }
};

// See blocks_of in schedule_conv.cu. Elements of TF32, and those that are gathered, take more registers.
template <typename T, int BN, bool whole>
constexpr int blocks_of(bool tensor_cores) {
  const int most = tensor_cores && sizeof(T) == 4 ? 64 : 128;
  return BN <= (whole ? most : most / 2) ? 2 : 1;
}

template <typename T, int BN, bool whole, template <typename, int, int, int, int> class Product>
LASFAST_KERNEL(block_threads, (blocks_of<T, BN, whole>(Product<T, 128, 128, 32, 32>::tensor_cores)))
grad_weight(const GradWeightArgs args) {
  using G = Geometry<conv_rows, BN>;
  using Loader = PositionsLoader<T, BN, whole>;
  using Result = Product<T, conv_rows, BN, G::rows, G::columns>;
  device::note_tile("grad_weight", Result::name, conv_rows, BN, whole);
  const int64_t block = device::block_index();
  const int first_column = static_cast<int>(block % args.column_tiles) * BN;
  const int first_row = static_cast<int>(block / args.column_tiles % args.row_tiles) * conv_rows;
  const int64_t part = block / args.column_tiles / args.row_tiles;
  const int begin = static_cast<int>(part * args.each);
  const int end = begin + args.each < args.positions ? begin + args.each : args.positions;

  const int row = first_row + Loader::A::piece() * Loader::elements, tap = row / args.c_in;
  Loader loader{args, begin, end, Element{tap / args.kernel, tap % args.kernel, row % args.c_in},
                first_column + Loader::B::piece() * Loader::elements};
  const int steps = (end - begin + Loader::A::depth - 1) / Loader::A::depth;
  auto* const shared = device::shared<ConvShared<conv_rows, BN>>();
  convolve<Result>(*shared, steps, loader, [&](const auto& result) {
    float* const partial = args.partial + part * args.rows * args.c_out;
    for (int i = device::thread_index(); i < conv_rows * BN; i += block_threads) {
      const int m = i / BN, n = i % BN;
      if (first_row + m < args.rows && first_column + n < args.c_out)
        partial[int64_t{first_row + m} * args.c_out + first_column + n] = result.values[m * result.pitch + n];
    }
  });
}

template <typename T, template <typename, int, int, int, int> class Product, int BN>
int launch_of(const GradWeightArgs& args, int64_t blocks, device::Stream stream) {
  const bool whole =
      is_whole(args.input, args.c_in, sizeof(T)) && is_whole(args.grad_output, args.c_out, sizeof(T));
  auto* const kernel = whole ? grad_weight<T, BN, true, Product> : grad_weight<T, BN, false, Product>;
  return device::launch(kernel, blocks, block_threads, sizeof(ConvShared<conv_rows, BN>), stream, args);
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
                            static_cast<int>(p.batch * p.out_height * p.out_width),
                            static_cast<int>(tiling.each),
                            static_cast<int>(tiling.row_tiles),
                            static_cast<int>(tiling.column_tiles)};
  const int64_t blocks = tiling.parts * tiling.row_tiles * tiling.column_tiles;
  if (p.storage == Dtype::bfloat16)
    return launch_of<device::bfloat16, TransposedTensorProduct>(args, tiling.columns, blocks, stream);
  return p.tf32 ? launch_of<float, TransposedTensorProduct>(args, tiling.columns, blocks, stream)
                : launch_of<float, TransposedExactProduct>(args, tiling.columns, blocks, stream);
}

}  // namespace lasfast
