// Checks of a schedule's tables, and the plan that is made of them. No kernel is here: what it asks of
// kernels is how much shared memory they need.
#include <algorithm>
#include <cstring>
#include <vector>

#include "../cpu/schedule_check.h"
#include "lasfast/round.h"
#include "schedule_kernels.cuh"
#include "schedule_plan.h"

namespace lasfast {
namespace {

constexpr int64_t largest_positions = int64_t{1} << 31, largest_offsets = int64_t{1} << 31, alignment = 64;
constexpr int largest_mapped_stride = 8;  // of what tensor maps can say
constexpr int64_t largest_shared =
    1 << 20;  // more than any block has: what is there is for the launch to say

int32_t pitch_of(int64_t channels) { return static_cast<int32_t>(cuda_channels(channels)); }
Kind kind_of(const Operation& op) { return static_cast<Kind>(op.kind); }

int64_t most_shared_bytes(Work work) {
  return is_conv(work) && conv_tile(work).warpgroups ? device::max_warpgroup_shared_bytes
                                                     : device::max_shared_bytes;
}

int64_t padded_elements(const Value& v) { return int64_t{v.height} * v.width * cuda_channels(v.channels); }
int64_t resident_elements(const Value& v) { return round_to(padded_elements(v), resident_alignment); }

Value output_of(const ScheduleTables& t, const Operation& op) {
  return op.leaf >= 0 ? Value{op.out_channels, 1, 1, 0, 0} : t.values[op.output];
}

bool is_conv(const Operation& op) {
  return kind_of(op) == Kind::linear || (kind_of(op) == Kind::conv2d && !is_depthwise_cuda(op));
}

Work work_of(const Operation& op) {
  switch (kind_of(op)) {
    case Kind::input:
      return Work::input;
    case Kind::max_pool:
      return Work::max_pool;
    case Kind::avg_pool:
      return Work::avg_pool;
    case Kind::global_pool:
      return Work::global_pool;
    case Kind::combine:
      return Work::combine;
    case Kind::gate:
      return Work::gate;
    case Kind::arrange:
      return Work::arrange;
    default:
      if (is_depthwise_cuda(op)) return Work::depthwise;
      return static_cast<Work>(op.tile ? op.tile - 1 : schedule_usual_tile_cuda(op.out_channels));
  }
}

// Everything of a plan but its layout in memory.
struct Draft {
  const ScheduleTables& t;
  Dtype storage;
  int64_t images;
  Purpose purpose;
  std::vector<Launch> launches;
  std::vector<Problem> problems;
  int64_t arena_bytes = 0, scratch_floats = 0, counters = 0, leaves = 0, levels = 0, stage_bytes = 0;
  int64_t maps = 0;

  Term term(int32_t value, int32_t norm, Activation activation) const {
    if (value < 0) return Term{0, 0, 0, 0, 0, -1, Activation::none};
    const Value& v = t.values[value];
    const int32_t channel = norm < 0 ? -1 : t.norms[norm].offset;
    return Term{v.offset * images, v.channels, pitch_of(v.channels), v.height, v.width, channel, activation};
  }

  Problem problem(const Operation& op, Work work) const {
    Problem p{};
    p.work = work;
    const Value out = output_of(t, op);
    p.input = term(op.input, op.input_norm, op.input_activation);
    p.other = term(op.other, op.other_norm, op.other_activation);
    if (work == Work::input) p.input.channels = op.out_channels;
    p.output = out.offset * images;
    p.leaf = op.leaf;
    p.out_channels = out.channels;
    p.out_pitch = pitch_of(out.channels);
    p.out_height = out.height;
    p.out_width = out.width;
    p.kernel_height = p.kernel_width = op.kernel;
    p.stride = op.stride;
    p.padding = op.padding;
    p.norm = op.output_norm < 0 ? -1 : t.norms[op.output_norm].offset;
    p.activation = op.activation;
    p.bias = op.bias;
    p.adds = op.other >= 0 && work != Work::gate && work != Work::arrange;
    p.first = op.first;
    p.groups = op.groups;
    p.partial = p.statistics = -1;
    if (op.statistics >= 0) {
      p.statistics = t.norms[op.statistics].offset;
      p.eps = t.norms[op.statistics].eps;
    }
    if (is_conv(work) || work == Work::depthwise) {
      const PackedShape packed(op, t.values[op.input], storage);
      p.kernel_height = packed.kernel_height;
      p.kernel_width = packed.kernel_width;
      if (kind_of(op) == Kind::linear) p.stride = 1, p.padding = 0;
      p.depth = packed.depth;
      p.weight = op.weight;
    }
    if (is_conv(work)) {
      p.rows = conv_tile(work).rows;
      p.columns = conv_tile(work).columns;
    } else {
      const int64_t chunks = p.out_pitch / chunk;
      const int64_t across = divide_up(chunks, divide_up(chunks, plane_chunks));
      p.columns = static_cast<int32_t>(across * chunk);
      p.rows = static_cast<int32_t>(block_threads / across * plane_rows);
    }
    p.row_tiles = static_cast<int32_t>(divide_up(images * p.out_height * p.out_width, p.rows));
    p.column_tiles = static_cast<int32_t>(divide_up(p.out_pitch, p.columns));
    return p;
  }

  // Says whether what a problem multiplies can be copied by tensor maps: each step of k has to be of one tap.
  bool is_mapped(const Problem& p) const {
    return purpose == Purpose::mapped && is_conv(p.work) && conv_tile(p.work).warpgroups &&
           p.input.norm < 0 && p.input.activation == Activation::none &&
           p.input.pitch % device::mapped_elements == 0 && p.kernel_height <= schedule_max_kernel &&
           p.kernel_width <= schedule_max_kernel && p.padding <= schedule_max_kernel &&
           p.stride <= largest_mapped_stride;
  }

  // Adds one launch of what is in `some`, if anything is.
  void add_launch(Work work, int64_t level, std::vector<Problem>& some, bool mapped = false) {
    if (some.empty()) return;
    Launch launch{work,
                  static_cast<int32_t>(level),
                  static_cast<int32_t>(problems.size()),
                  static_cast<int32_t>(some.size()),
                  0,
                  0,
                  mapped ? maps : -1,
                  0};
    if (mapped) maps += 2 * static_cast<int64_t>(some.size());
    for (Problem& p : some) {
      p.first_tile = launch.blocks;
      launch.blocks += int64_t{p.row_tiles} * p.column_tiles;
      const int64_t bytes =
          is_conv(work) ? conv_shared_bytes(work, p.input.pitch) : plane_shared_bytes(work, p);
      launch.shared_bytes = std::max(launch.shared_bytes, bytes);
    }
    launches.push_back(launch);
    problems.insert(problems.end(), some.begin(), some.end());
  }

  void add_level(int64_t level) {
    std::vector<Problem> by_work[work_count], mapped[work_count];
    int64_t floats = 0, counted = 0;
    for (int64_t i = 0; i < t.operation_count; ++i) {
      const Operation& op = t.operations[i];
      if (op.level != level || kind_of(op) == Kind::opaque ||
          (purpose == Purpose::calibration && op.leaf >= 0))
        continue;
      const Work work = work_of(op);
      Problem p = problem(op, work);
      if (op.statistics >= 0) {
        p.tile_groups = static_cast<int32_t>(divide_up(p.row_tiles, pooled_tiles));
        p.partial = floats;
        p.pooled = floats += int64_t{2} * p.row_tiles * p.out_pitch;
        if (p.tile_groups > 1)
          floats += p.tile_groups * 2 * int64_t{p.out_pitch} * int64_t{sizeof(double) / sizeof(float)};
        p.counters = static_cast<int32_t>(counted);
        counted += p.column_tiles * (int64_t{1} + p.tile_groups);
      }
      (is_mapped(p) ? mapped : by_work)[static_cast<int>(work)].push_back(p);
      if (purpose == Purpose::resident) stage_bytes = std::max(stage_bytes, resident_stage_bytes(p));
    }
    scratch_floats = std::max(scratch_floats, floats);
    counters = std::max(counters, round_to(counted, 4));
    for (int work = 0; work < work_count; ++work) {
      add_launch(static_cast<Work>(work), level, by_work[work]);
      add_launch(static_cast<Work>(work), level, mapped[work], true);
    }
  }

  Draft(const ScheduleTables& t, Dtype storage, int64_t images, Purpose purpose)
      : t(t), storage(storage), images(images), purpose(purpose) {
    for (int64_t i = 0; i < t.operation_count; ++i) {
      levels = std::max<int64_t>(levels, t.operations[i].level + 1);
      leaves += t.operations[i].leaf >= 0;
    }
    for (int64_t level = 0; level < levels; ++level) add_level(level);
    for (int64_t i = 0; i < t.value_count; ++i) {
      const Value& v = t.values[i];
      const int64_t elements = purpose == Purpose::resident ? resident_elements(v) : padded_elements(v);
      arena_bytes = std::max(arena_bytes, (v.offset + elements) * images * itemsize(storage));
    }
  }
};

Status check_tiles(const ScheduleTables& t, Dtype storage) {
  for (int64_t i = 0; i < t.operation_count; ++i) {
    const Operation& op = t.operations[i];
    if (op.tile < 0 || op.tile > cuda_conv_tile_count || (op.tile && !is_conv(op)))
      return invalid("an operation's tile is none of a convolution's");
    if (op.tile && cuda_conv_tiles[op.tile - 1].warpgroups && storage != Dtype::bfloat16)
      return invalid("warpgroups multiply bfloat16 alone");
  }
  return {};
}

// What the resident kernel asks for beyond what every kernel does.
Status check_resident(const ScheduleTables& t) {
  for (int64_t i = 0; i < t.value_count; ++i)
    if (t.values[i].offset % resident_alignment)
      return invalid("a value does not begin at a multiple of 64 elements");
  for (int64_t i = 0; i < t.operation_count; ++i) {
    const Operation& op = t.operations[i];
    if (kind_of(op) == Kind::opaque) return invalid("an opaque operation is run by the caller");
    if (is_conv(op) && (op.input_norm >= 0 || op.input_activation != Activation::none))
      return invalid("the input of a convolution or linear operation has a norm or an activation");
    if (op.tile) return invalid("the resident kernel has tiles of its own");
  }
  return {};
}

}  // namespace

// The first of the narrowest that hold all channels; of the two widest, the one that computes less in vain.
int schedule_usual_tile_cuda(int64_t channels) {
  const bool half = round_to(channels, 64) < round_to(channels, 128);
  const int64_t columns = channels <= 16 ? 16 : channels <= 32 ? 32 : half ? 64 : 128;
  int number = 0;
  while (cuda_conv_tiles[number].columns != columns) ++number;
  return number;
}

bool is_depthwise_cuda(const Operation& op) { return kind_of(op) == Kind::conv2d && op.groups > 1; }

PackedShape::PackedShape(const Operation& op, const Value& input, Dtype storage)
    : kernel_height(op.kernel),
      kernel_width(op.kernel),
      channels(input.channels),
      pitch(pitch_of(input.channels)),
      depth(0),
      bytes(0) {
  if (kind_of(op) == Kind::linear) {  // a window as large as the image
    kernel_height = input.height;
    kernel_width = input.width;
  }
  const int64_t taps = int64_t{kernel_height} * kernel_width;
  if (is_depthwise_cuda(op)) {
    depth = pitch;
    bytes = round_to(taps * pitch * 4, alignment);
  } else {
    const int64_t elements = round_to(taps * pitch, conv_step_bytes / itemsize(storage));
    depth = static_cast<int32_t>(elements);
    bytes = round_to(op.out_channels * elements * itemsize(storage), alignment);
  }
}

Status check_plan(const ScheduleTables& t, Dtype storage, int64_t images, Purpose purpose) {
  if (purpose < Purpose::prediction || purpose > Purpose::mapped)
    return invalid("the purpose of the plan is unknown");
  const bool resident = purpose == Purpose::resident;
  const auto packed = [](const Operation& op, const Value& input, Dtype storage) {
    return schedule_packed_bytes_cuda(op, input, storage);
  };
  const Room room{images, -1};
  const ScheduleLayout layout{resident ? resident_elements : padded_elements, packed, resident};
  if (const Status status = check_tables(t, storage, room, room, purpose == Purpose::calibration, layout);
      !status.ok())
    return status;
  for (int64_t i = 0; i < t.value_count; ++i)
    if (t.values[i].shared) return invalid("there is one arena on CUDA, and no value is shared");
  if (const Status status = check_tiles(t, storage); !status.ok()) return status;
  if (resident) {
    if (const Status status = check_resident(t); !status.ok()) return status;
  }
  const Draft draft(t, storage, images, purpose);
  if (resident && resident_bytes(draft.arena_bytes, draft.stage_bytes) > largest_shared)
    return unsupported("the values do not fit into a multiprocessor's memory");
  for (const Problem& p : draft.problems)
    // Kernels number positions by int, and those of a tile behind the last one, too.
    if (images * p.out_height * p.out_width >= largest_positions - p.rows ||
        (p.other.channels && images * p.input.height * p.input.width >= largest_positions))
      return unsupported("more than 2^31 positions of one value at a time; run fewer images at once");
  for (const Problem& p : draft.problems)
    if (is_conv(p.work) && int64_t{p.kernel_height} * p.input.width * p.input.pitch >= largest_offsets)
      return unsupported("the rows of an image under a window have more than 2^31 elements");
  for (const Launch& launch : draft.launches)
    if (!resident &&
        (launch.blocks > device::max_blocks || launch.shared_bytes > most_shared_bytes(launch.work)))
      return unsupported("an operation has too many channels or positions for one launch");
  return {};
}

int64_t make_plan(const ScheduleTables& t, Dtype storage, bool tf32, int64_t images, Purpose purpose,
                  void* plan) {
  const Draft draft(t, storage, images, purpose);
  const size_t launch_bytes = draft.launches.size() * sizeof(Launch);
  const size_t problem_bytes = draft.problems.size() * sizeof(Problem);
  const size_t counter_bytes = static_cast<size_t>(draft.counters) * sizeof(uint32_t);
  LaunchPlan header{};
  header.mark = plan_mark;
  header.bytes = static_cast<int64_t>(sizeof(LaunchPlan) + launch_bytes + problem_bytes + counter_bytes);
  header.images = images;
  header.levels = draft.levels;
  header.launches = static_cast<int64_t>(draft.launches.size());
  header.problems = static_cast<int64_t>(draft.problems.size());
  header.counters = draft.counters;
  header.maps = draft.maps;
  header.arena_bytes = round_to(draft.arena_bytes, alignment);
  header.scratch_bytes = draft.scratch_floats * int64_t{sizeof(float)};
  header.leaves = purpose == Purpose::calibration ? 0 : draft.leaves;
  if (purpose == Purpose::resident) {
    header.resident_bytes = resident_bytes(header.arena_bytes, draft.stage_bytes);
  }
  header.bfloat16 = storage == Dtype::bfloat16;
  header.tf32 = tf32;
  if (plan) {
    auto* to = static_cast<char*>(plan);
    std::memcpy(to, &header, sizeof header);
    std::memcpy(to += sizeof header, draft.launches.data(), launch_bytes);
    std::memcpy(to += launch_bytes, draft.problems.data(), problem_bytes);
    std::memset(to + problem_bytes, 0, counter_bytes);
  }
  return header.bytes;
}

int make_maps(const LaunchPlan& plan, const void* arena, const void* weights, device::TensorMap* maps) {
  for (int64_t i = 0; i < plan.launches; ++i) {
    const Launch& launch = plan.first_launch()[i];
    if (launch.first_map < 0) continue;
    device::TensorMap* to = maps + launch.first_map;
    for (const Problem *p = plan.first_problem() + launch.first_problem, *end = p + launch.problems; p < end;
         ++p) {
      constexpr int64_t item = sizeof(device::bfloat16);
      const device::WindowsMap windows{static_cast<const char*>(arena) + p->input.offset * item,
                                       plan.images,
                                       p->input.height,
                                       p->input.width,
                                       p->input.pitch,
                                       p->out_height,
                                       p->out_width,
                                       p->stride,
                                       p->padding,
                                       p->rows};
      const device::RowsMap rows{static_cast<const char*>(weights) + p->weight, p->out_channels, p->depth,
                                 p->columns};
      if (const int error = device::describe(windows, to++)) return error;
      if (const int error = device::describe(rows, to++)) return error;
    }
  }
  return 0;
}

}  // namespace lasfast
