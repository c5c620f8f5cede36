// Runs a schedule on the CPU.
//
// An item is one operation on a few images. Calibration takes the operations level by level; all items of a
// level are shared out among the threads as they come, each writes its partial statistics to a place of its
// own. Whoever does the last item of an operation merges them, in the order of images. Prediction gives each
// thread whole blocks of images, small enough that its activations stay in cache.
#include "lasfast/schedule.h"

#include <cmath>

#include "dispatch.h"
#include "partial_statistics.h"
#include "schedule_check.h"
#include "schedule_layout.h"
#include "threads.h"
#include "winograd_layout.h"

namespace lasfast {

const ScheduleKernels& schedule_kernels(Isa isa) {
  static constexpr KernelTables<ScheduleKernels> kernels = {
      {LASFAST_GENERIC(schedule_kernels), LASFAST_AVX2(schedule_kernels), LASFAST_AVX512(schedule_kernels),
       LASFAST_AVX512_BF16(schedule_kernels), LASFAST_AMX(schedule_kernels), LASFAST_NEON(schedule_kernels),
       LASFAST_NEON_BF16(schedule_kernels)}};
  return kernels[isa];
}

namespace {

bool is_dense(const Operation& op) { return op.kind == Kind::conv2d || op.kind == Kind::linear; }

// Returns how many images an item is of.
int64_t item_images(const ScheduleTables& t, const Operation& op, Dtype storage, Isa isa, int64_t images) {
  if (!is_dense(op)) return 1;
  if (op.tile) return WinogradConvolution(op, t.values[op.input], storage, isa, images).item_images;
  return CellConvolution(op, t.values[op.input], storage, isa, images).item_images();
}

int64_t sums_bytes(const Operation& op) { return 3 * (op.out_channels + 16) * int64_t{sizeof(float)}; }

int64_t source_channels(const ScheduleTables& t, const Operation& op) {
  return t.values[op.input].channels + (op.other < 0 ? 0 : t.values[op.other].channels);
}

// Scratch memory of one thread.
int64_t thread_bytes(const ScheduleTables& t, Dtype storage, Isa isa, int64_t images) {
  int64_t most = 0;
  for (int64_t i = 0; i < t.operation_count; ++i) {
    const Operation& op = t.operations[i];
    int64_t bytes = sums_bytes(op);
    if (op.tile) {
      bytes += WinogradConvolution(op, t.values[op.input], storage, isa, images).block_bytes;
    } else if (is_dense(op)) {
      const CellConvolution conv(op, t.values[op.input], storage, isa, images);
      bytes += conv.cell_bytes;
    } else if (is_binary(op)) {
      bytes += channel_scratch_bytes(op, source_channels(t, op));
    }
    most = std::max(most, bytes);
  }
  return round_to(most, scratch_line);
}

int64_t partial_floats(const ScheduleTables& t, const Operation& op, Dtype storage, Isa isa, int64_t images) {
  if (op.statistics < 0) return 0;
  return divide_up(images, item_images(t, op, storage, isa, images)) * 2 * op.out_channels;
}

// The levels of a range of operations: a range as well.
Range levels_of(const ScheduleTables& t, Range range) {
  Range levels{t.operation_count, 0};
  for (int64_t i = range.first; i < range.last; ++i) {
    levels.first = std::min<int64_t>(levels.first, t.operations[i].level);
    levels.last = std::max<int64_t>(levels.last, t.operations[i].level + 1);
  }
  return levels;
}

// Where the images of an item are: image 0 of its own arena is image `start` of the shared one.
struct Arenas {
  char* own;
  int64_t capacity;
  char* shared;
  int64_t images, start;
};

// Bytes of an image that an input operation reads.
int64_t image_bytes(const ScheduleTables& t, const Operation& op) {
  const Value& out = t.values[op.output];
  return int64_t{op.out_channels} * out.height * out.width * (t.pixels ? 1 : sizeof(float));
}

// What all items of a pass have in common.
struct Pass {
  const ScheduleTables& t;
  Dtype storage;
  Isa isa;
  int64_t capacity;  // images at a time

  Affine affine(int32_t norm, Activation activation) const {
    if (norm < 0) return {nullptr, nullptr, activation};
    return {t.scale + t.norms[norm].offset, t.shift + t.norms[norm].offset, activation};
  }
  char* at(const Arenas& arenas, const Value& v, int64_t image) const {
    const int64_t size = int64_t{v.channels} * v.height * v.width;
    if (v.shared)
      return arenas.shared + (v.offset * arenas.images + (arenas.start + image) * size) * itemsize(storage);
    return arenas.own + (v.offset * arenas.capacity + image * size) * itemsize(storage);
  }

  // Everything but which images: `first` is moved on by move().
  ItemArgs args(const Operation& op, char* scratch) const {
    ItemArgs a{};
    const Value out = op.leaf >= 0 ? Value{op.out_channels, 1, 1, 0, 0} : t.values[op.output];
    a.out_channels = out.channels;
    a.out_height = out.height;
    a.out_width = out.width;
    a.cells.group = 1;
    a.sums = reinterpret_cast<float*>(scratch);
    if (op.kind == Kind::input) {
      a.task = Task::input;
      a.in_channels = op.out_channels;
      a.in_height = out.height;
      a.in_width = out.width;
      a.pixels = t.pixels;
      return a;
    }
    const Value& in = t.values[op.input];
    a.in_channels = in.channels;
    a.in_height = in.height;
    a.in_width = in.width;
    a.kernel = op.kernel;
    a.stride = op.stride;
    a.padding = op.padding;
    a.in = affine(op.input_norm, op.input_activation);
    a.with = affine(op.other_norm, op.other_activation);
    a.out = affine(op.output_norm, op.activation);
    a.bias = op.bias < 0 ? nullptr : t.biases + op.bias;
    if (op.other >= 0) a.other_channels = t.values[op.other].channels;
    switch (op.kind) {
      case Kind::max_pool:
        a.task = Task::max_pool;
        break;
      case Kind::avg_pool:
        a.task = Task::avg_pool;
        break;
      case Kind::global_pool:
        a.task = Task::global_pool;
        break;
      case Kind::combine:
        a.task = Task::combine;
        break;
      case Kind::gate:
      case Kind::arrange:
        a.task = op.kind == Kind::gate ? Task::gate : Task::arrange;
        a.first = op.first;
        a.groups = op.groups;
        a.cells.size = arrange_pitch(source_channels(t, op));
        a.cell_scratch = scratch + round_to(sums_bytes(op), scratch_line);
        break;
      default: {
        a.weight = static_cast<const char*>(t.weights) + op.weight;
        a.cell_scratch = scratch + round_to(sums_bytes(op), scratch_line);
        if (op.tile) {
          a.task = Task::winograd;
          a.winograd = WinogradConvolution(op, in, storage, isa, capacity).block;
          break;
        }
        const CellConvolution conv(op, in, storage, isa, capacity);
        a.task = conv.depthwise ? Task::depthwise : Task::dense;
        a.kernel = conv.kernel;
        a.stride = conv.stride;
        a.padding = conv.padding;
        a.flatten = conv.flatten;
        a.cells = conv.cells;
      }
    }
    return a;
  }

  void run(const Operation& op, ItemArgs& a, const Arenas& arenas, int64_t first, int64_t images,
           const char* images_nchw, float* leaf) const {
    a.images = images;
    if (a.task == Task::input)
      a.input = images_nchw + first * image_bytes(t, op);
    else
      a.input = at(arenas, t.values[op.input], first);
    a.other = op.other < 0 ? nullptr : at(arenas, t.values[op.other], first);
    const ScheduleKernels& kernels = schedule_kernels(isa);
    if (leaf)
      a.output = leaf + first * op.out_channels;
    else
      a.output = at(arenas, t.values[op.output], first);
    if (storage == Dtype::float32)
      kernels.run_f32(a);
    else if (leaf)
      kernels.run_bf16_f32(a);
    else
      kernels.run_bf16(a);
  }
};

void merge(const ScheduleTables& t, const Operation& op, const float* partial, int64_t items, int64_t each,
           int64_t images) {
  const Norm& norm = t.norms[op.statistics];
  const Value& out = t.values[op.output];
  const PartialStatistics statistics{partial, out.channels, items,
                                     each,    images,       int64_t{out.height} * out.width};
  for (int64_t c = 0; c < out.channels; ++c) {
    const Moments moments = statistics.merged(c);
    const int64_t at = norm.offset + c;
    const double scale = t.gamma[at] / std::sqrt(moments.variance + static_cast<double>(norm.eps));
    t.mean[at] = static_cast<float>(moments.mean);
    t.variance[at] = static_cast<float>(moments.variance);
    t.scale[at] = static_cast<float>(scale);
    t.shift[at] = static_cast<float>(t.beta[at] - moments.mean * scale);
  }
}

bool misaligned(const void* p) { return !p || reinterpret_cast<uintptr_t>(p) % scratch_line; }

}  // namespace

int64_t schedule_scratch_bytes_cpu(const ScheduleTables& t, Dtype storage, Isa isa, int64_t images,
                                   int threads, bool calibration) {
  if (!check_schedule(t, storage, isa, threads, {images, -1}, {images, -1}, calibration).ok()) return 0;
  int64_t partial = 0;
  if (calibration) {
    const Range levels = levels_of(t, {0, t.operation_count});
    for (int64_t level = levels.first; level < levels.last; ++level) {
      int64_t floats = 0;
      for (int64_t i = 0; i < t.operation_count; ++i)
        if (t.operations[i].level == level)
          floats += partial_floats(t, t.operations[i], storage, isa, images);
      partial = std::max(partial, floats);
    }
  }
  return threads * thread_bytes(t, storage, isa, images) + partial * int64_t{sizeof(float)} +
         t.operation_count * int64_t{sizeof(int64_t)};
}

Status schedule_calibrate_cpu(const ScheduleTables& t, Dtype storage, Isa isa, int threads, Range operations,
                              const void* images_nchw, int64_t images, void* arena, int64_t arena_bytes,
                              void* scratch) {
  const Room room{images, std::max<int64_t>(0, arena_bytes)};
  if (const Status status = check_schedule(t, storage, isa, threads, room, room, true); !status.ok())
    return status;
  if (const Status status = check_range(t, operations); !status.ok()) return status;
  if (!images_nchw) return invalid("the images are missing");
  if (misaligned(arena) || misaligned(scratch)) return invalid("arena or scratch is missing or not aligned");
  const int64_t own_bytes = thread_bytes(t, storage, isa, images);
  const Range levels = levels_of(t, operations);
  auto* const scratches = static_cast<char*>(scratch);
  auto* const finished = reinterpret_cast<int64_t*>(scratches + threads * own_bytes);  // items, by operation
  auto* const partials = reinterpret_cast<float*>(finished + t.operation_count);
  std::fill_n(finished, t.operation_count, 0);
  const Pass pass{t, storage, isa, images};
  const auto* const pixels = static_cast<const char*>(images_nchw);
  const Arenas arenas{static_cast<char*>(arena), images, nullptr, 0, 0};

#pragma omp parallel num_threads(threads)
  {
    char* const own = scratches + thread_number() * own_bytes;
    for (int64_t level = levels.first; level < levels.last; ++level) {
      float* partial = partials;
      for (int64_t i = operations.first; i < operations.last; ++i) {
        const Operation& op = t.operations[i];
        if (op.level != level || op.leaf >= 0) continue;
        ItemArgs args = pass.args(op, own);
        const int64_t each = item_images(t, op, storage, isa, images), items = divide_up(images, each);
        // Items in one order, operations after one another: a thread that is done with one goes on.
#pragma omp for schedule(dynamic) nowait
        for (int64_t item = 0; item < items; ++item) {
          args.partial = op.statistics < 0 ? nullptr : partial + item * 2 * op.out_channels;
          pass.run(op, args, arenas, item * each, std::min(each, images - item * each), pixels, nullptr);
          if (op.statistics < 0) continue;
          if (__atomic_add_fetch(finished + i, 1, __ATOMIC_ACQ_REL) == items)
            merge(t, op, partial, items, each, images);
        }
        if (op.statistics >= 0) partial += items * 2 * op.out_channels;
      }
#pragma omp barrier
    }
  }
  return {};
}

Status schedule_predict_cpu(const ScheduleTables& t, Dtype storage, Isa isa, int threads, Range operations,
                            const void* images_nchw, int64_t images, int64_t block, void* shared_arena,
                            int64_t shared_bytes, void* arenas, int64_t arena_bytes, void* scratch,
                            float* logits) {
  const Room own{block, std::max<int64_t>(0, arena_bytes)};
  const Room shared{images, shared_arena ? std::max<int64_t>(0, shared_bytes) : 0};
  if (const Status status = check_schedule(t, storage, isa, threads, own, shared, false); !status.ok())
    return status;
  if (const Status status = check_range(t, operations); !status.ok()) return status;
  if (images < 0 || images > INT32_MAX) return invalid("the number of images is out of range");
  if (!images_nchw || !logits) return invalid("images or logits are missing");
  if (misaligned(arenas) || misaligned(scratch) || arena_bytes % scratch_line ||
      (shared_arena && misaligned(shared_arena)))
    return invalid("arenas or scratch are missing or not aligned");
  const int64_t own_bytes = thread_bytes(t, storage, isa, block);
  const Pass pass{t, storage, isa, block};
  int64_t each_image = 0;  // bytes
  for (int64_t i = 0; i < t.operation_count; ++i) {
    const Operation& op = t.operations[i];
    if (op.kind == Kind::input) each_image = image_bytes(t, op);
  }

#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t b = 0; b < divide_up(images, block); ++b) {
    char* const arena = static_cast<char*>(arenas) + thread_number() * arena_bytes;
    char* const own = static_cast<char*>(scratch) + thread_number() * own_bytes;
    const int64_t first = b * block, count = std::min(block, images - first);
    const char* const pixels = static_cast<const char*>(images_nchw) + first * each_image;
    const Arenas places{arena, block, static_cast<char*>(shared_arena), images, first};
    for (int64_t i = operations.first; i < operations.last; ++i) {
      const Operation& op = t.operations[i];
      ItemArgs args = pass.args(op, own);
      float* const leaf =
          op.leaf < 0 ? nullptr : logits + (op.leaf * images + first) * int64_t{op.out_channels};
      const int64_t each = item_images(t, op, storage, isa, block);
      for (int64_t k = 0; k < count; k += each)
        pass.run(op, args, places, k, std::min(each, count - k), pixels, leaf);
    }
  }
  return {};
}

}  // namespace lasfast
