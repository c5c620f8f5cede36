// The gradient of a depthwise convolution's weight in training.
//
// A thread sums, for eight channels, the taps of one row of the kernel (or one tap, where kernels have
// unusual sizes) over some positions of a part; neighbours take the other rows, so that what they read is
// cached. The threads' sums meet in shared memory, and those of parts in the workspace, where merge_nhwc.cu
// adds them: always in one order. Terms in the padding are left out.
#include "depthwise_nhwc.cuh"

namespace lasfast {
namespace {

constexpr int wanted_blocks = 1024;  // fill a large chip a few times
constexpr int worth_a_part = 16;     // positions of a thread

struct GradWeightArgs {
  const void* grad_output;  // [positions, channels]
  const void* input;        // [images, height, width, channels]
  float* partial;           // [parts][kernel, kernel][channels]
  Grid grid;                // of output positions
  int positions, each;      // of a part
  int height, width, channels;
  int kernel, stride, padding;
  int across, groups, block_groups, lanes;
  int column_tiles, group_tiles;
};

template <typename T, int W, int bytes>
LASFAST_KERNEL(block_threads, 1)
grad_weight(const GradWeightArgs args) {
  device::wait_for_earlier();
  device::let_next_begin();
  auto* const shared = device::shared<float>();  // [lanes][groups of the block][W][columns]
  const int thread = device::thread_index(), columns = args.across * chunk;
  const int64_t block = device::block_index();
  const int group_tile = static_cast<int>(block % args.group_tiles);
  const int first_channel = static_cast<int>(block / args.group_tiles % args.column_tiles) * columns;
  const int64_t part = block / args.group_tiles / args.column_tiles;
  const int begin = static_cast<int>(part * args.each);
  const int end = args.positions - begin < args.each ? args.positions : begin + args.each;

  const int column = thread % args.across * chunk, channel = first_channel + column;
  const int slot = thread / args.across, own = slot % args.block_groups, lane = slot / args.block_groups;
  const int runs = args.kernel / W;  // of a row of the kernel
  const int group = group_tile * args.block_groups + own, r = group / runs, s0 = group % runs * W;
  const int channels = args.channels - channel;
  Chunk sum[W] = {};
  if (lane < args.lanes && group < args.groups && channels > 0) {
    const T* const grad_output = static_cast<const T*>(args.grad_output) + channel;
    const T* const input = static_cast<const T*>(args.input) + channel;
    for (int position = begin + lane; position < end; position += args.lanes) {
      const Grid::Position at = args.grid(position);
      const int y = at.y * args.stride - args.padding + r, x = at.x * args.stride - args.padding + s0;
      if (y < 0 || y >= args.height) continue;
      const T* const from = input + ((int64_t{at.image} * args.height + y) * args.width + x) * args.channels;
      Raw<T, bytes> raw_grad, raw[W];
      raw_grad.load(grad_output + int64_t{position} * args.channels, channels);
      LASFAST_UNROLL
      for (int s = 0; s < W; ++s)
        if (x + s >= 0 && x + s < args.width) raw[s].load(from + int64_t{s} * args.channels, channels);
      const Chunk grad = raw_grad.values();
      LASFAST_UNROLL
      for (int s = 0; s < W; ++s) {
        if (x + s < 0 || x + s >= args.width) continue;
        const Chunk v = raw[s].values();
        LASFAST_UNROLL
        for (int i = 0; i < chunk; ++i) sum[s].v[i] += grad.v[i] * v.v[i];
      }
    }
  }
  if (lane < args.lanes) {
    float* const to = shared + (lane * args.block_groups + own) * W * columns + column;
    LASFAST_UNROLL
    for (int s = 0; s < W; ++s) LASFAST_UNROLL
    for (int i = 0; i < chunk; ++i) to[s * columns + i] = sum[s].v[i];
  }
  device::barrier();
  const int size = args.block_groups * W * columns, taps = args.kernel * args.kernel;
  for (int i = thread; i < size; i += block_threads) {
    const int c = first_channel + i % columns, tap = group_tile * args.block_groups * W + i / columns;
    if (c >= args.channels || tap >= taps) continue;
    float total = 0.f;
    for (int l = 0; l < args.lanes; ++l) total += shared[l * size + i];
    args.partial[(part * taps + tap) * args.channels + c] = total;
  }
}

template <typename T, int bytes>
int launch_of(const GradWeightArgs& args, int width, int64_t blocks, device::Stream stream) {
  const auto run = [&](void (*kernel)(GradWeightArgs)) {
    const int64_t floats = int64_t{args.lanes} * args.block_groups * width * args.across * chunk;
    return device::launch(kernel, blocks, block_threads, floats * int64_t{sizeof(float)}, stream, args);
  };
  switch (width) {
    case 3:
      return run(grad_weight<T, 3, bytes>);
    case 5:
      return run(grad_weight<T, 5, bytes>);
    case 7:
      return run(grad_weight<T, 7, bytes>);
    default:
      return run(grad_weight<T, 1, bytes>);
  }
}

template <typename T>
int launch_of(const GradWeightArgs& args, int width, int64_t blocks, device::Stream stream) {
  const int bytes = access_bytes<T>(args.channels, args.input, args.grad_output);
  if constexpr (sizeof(T) == 2)
    if (bytes == 2) return launch_of<T, 2>(args, width, blocks, stream);
  return bytes == 16 ? launch_of<T, 16>(args, width, blocks, stream)
                     : launch_of<T, 4>(args, width, blocks, stream);
}

}  // namespace

DepthwiseGradWeightTiling::DepthwiseGradWeightTiling(const DepthwiseNhwcParams& p)
    : width(p.kernel == 3 || p.kernel == 5 || p.kernel == 7 ? static_cast<int>(p.kernel) : 1),
      across(chunks_across(p.channels)),
      groups(static_cast<int>(p.kernel * p.kernel / width)) {
  const int slots = block_threads / across;
  block_groups = groups < slots ? groups : slots;
  lanes = slots / block_groups;
  column_tiles = divide_up(p.channels, across * chunk);
  group_tiles = divide_up(groups, block_groups);
  const int64_t positions = p.batch * p.out_height * p.out_width, most = positions / (lanes * worth_a_part);
  int64_t wanted = wanted_blocks / (column_tiles * group_tiles);
  if (wanted > most) wanted = most;
  if (wanted < 1) wanted = 1;
  each = positions > 0 ? divide_up(positions, wanted) : 1;
  parts = positions > 0 ? divide_up(positions, each) : 1;
}

int launch_depthwise_grad_weight(const DepthwiseNhwcParams& p, const DepthwiseGradWeightTiling& tiling,
                                 const void* grad_output, const void* input, device::Stream stream,
                                 float* partial) {
  const GradWeightArgs args{grad_output,
                            input,
                            partial,
                            {Divisor(p.out_width), Divisor(p.out_height)},
                            static_cast<int>(p.batch * p.out_height * p.out_width),
                            static_cast<int>(tiling.each),
                            static_cast<int>(p.height),
                            static_cast<int>(p.width),
                            static_cast<int>(p.channels),
                            static_cast<int>(p.kernel),
                            static_cast<int>(p.stride),
                            static_cast<int>(p.padding),
                            tiling.across,
                            tiling.groups,
                            tiling.block_groups,
                            tiling.lanes,
                            static_cast<int>(tiling.column_tiles),
                            static_cast<int>(tiling.group_tiles)};
  const int64_t blocks = tiling.parts * tiling.column_tiles * tiling.group_tiles;
  return p.storage == Dtype::bfloat16 ? launch_of<device::bfloat16>(args, tiling.width, blocks, stream)
                                      : launch_of<float>(args, tiling.width, blocks, stream);
}

}  // namespace lasfast
