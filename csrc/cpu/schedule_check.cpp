#include "schedule_check.h"

#include "schedule_layout.h"

namespace lasfast {
namespace {

constexpr int64_t largest_side = 1 << 20, largest_value = int64_t{1} << 40, largest_offset = int64_t{1} << 46;

bool in_range(int64_t index, int64_t count) { return index >= 0 && index < count; }

int64_t elements(const Value& v) { return int64_t{v.channels} * v.height * v.width; }

Status check_value(const Value& v) {
  if (v.channels < 1 || v.height < 1 || v.width < 1) return invalid("a value has a size below 1");
  if (v.channels > largest_side || v.height > largest_side || v.width > largest_side ||
      int64_t{v.channels} * v.height > largest_value / v.width)
    return invalid("a value is too large");
  if (v.shared != 0 && v.shared != 1) return invalid("a value's shared is neither 0 nor 1");
  if (v.offset < 0 || v.offset > largest_offset) return invalid("a value's offset is out of range");
  return {};
}

Status check_norm(const ScheduleTables& t, int32_t norm, int64_t channels) {
  if (norm == -1) return {};
  if (!in_range(norm, t.norm_count)) return invalid("an operation names a norm that does not exist");
  if (t.norms[norm].channels != channels) return invalid("a norm's channels are not those of its value");
  return {};
}

Status check_window(const Operation& op, const Value& in, const Value& out) {
  if (op.kernel < 1 || op.kernel > schedule_max_kernel) return invalid("a kernel is not between 1 and 11");
  if (op.stride < 1 || op.stride > largest_side) return invalid("a stride is below 1");
  if (op.padding < 0 || op.padding >= op.kernel) return invalid("a padding is not below its kernel");
  const int64_t height = int64_t{in.height} + 2 * op.padding - op.kernel;
  const int64_t width = int64_t{in.width} + 2 * op.padding - op.kernel;
  if (height < 0 || width < 0) return invalid("a kernel is larger than its padded input");
  if (out.height != 0 && (out.height != height / op.stride + 1 || out.width != width / op.stride + 1))
    return invalid("an output's height or width does not follow from its input");
  return {};
}

bool same_size(const Value& a, const Value& b) { return a.height == b.height && a.width == b.width; }

// What an operation reads beside its input: a value to add, or an operand.
Status check_other(const ScheduleTables& t, const Operation& op, const Value& in, const Value& out) {
  const Kind kind = op.kind;
  if (op.other != -1 && !in_range(op.other, t.value_count))
    return invalid("an operation's other is no value");
  if (kind == Kind::opaque) return {};
  const Value none = {0, out.height, out.width, 0, 0};
  const Value& other = op.other == -1 ? none : t.values[op.other];
  if (kind == Kind::gate) {
    if (other.channels != in.channels || other.height != 1 || other.width != 1)
      return invalid("a gate is not one factor for each channel");
  } else if (!same_size(other, out) || (kind != Kind::arrange && other.channels > out.channels)) {
    return invalid("an operation's other does not fit its output");
  }
  if (kind != Kind::arrange) return op.first ? invalid("only an arrangement has a first channel") : Status{};
  const int64_t channels = int64_t{in.channels} + other.channels;
  if (op.groups < 1 || channels % op.groups) return invalid("groups does not divide the channels");
  if (op.first < 0 || op.first + int64_t{out.channels} > channels)
    return invalid("an arrangement's channels are beyond those of its sources");
  return {};
}

bool overlap(const Value& a, const Value& b, const ScheduleLayout& layout) {
  return a.shared == b.shared && a.offset < b.offset + layout.elements(b) &&
         b.offset < a.offset + layout.elements(a);
}

// Returns whether they overlap in a way that is not allowed, where each element of `source` is read `once`,
// to compute the same element of the output.
bool clash(const Value& source, const Value& out, const ScheduleLayout& layout, bool once) {
  const bool same = source.channels == out.channels && same_size(source, out) && source.offset == out.offset;
  return overlap(source, out, layout) && !(layout.in_place && once && same);
}

Status check_operation(const ScheduleTables& t, const Operation& op, Dtype storage,
                       const ScheduleLayout& layout, bool calibration) {
  if (!in_range(static_cast<int64_t>(op.kind), kind_count)) return invalid("an operation's kind is unknown");
  for (const Activation activation : {op.activation, op.input_activation, op.other_activation})
    if (!in_range(static_cast<int64_t>(activation), activation_count))
      return invalid("an operation's activation is unknown");
  if (!in_range(op.level, t.operation_count))
    return invalid("an operation's level is not below the number of operations");
  const Kind kind = op.kind;
  constexpr Activation no_activation = Activation::none;
  const bool leaf = op.leaf >= 0;
  if (op.out_channels < 1 || op.out_channels > largest_side)
    return invalid("an operation's out_channels is out of range");
  if (leaf ? op.output != -1 : !in_range(op.output, t.value_count))
    return invalid("an operation's output is neither a value nor a leaf");
  const Value out = leaf ? Value{op.out_channels, 1, 1, 0, 0} : t.values[op.output];

  if (kind == Kind::input) {
    if (leaf || op.input != -1 || op.other != -1 || op.input_norm != -1 ||
        op.input_activation != no_activation || op.output_norm != -1 || op.activation != no_activation ||
        op.statistics != -1 || op.bias != -1)
      return invalid("an input operation only copies images");
    if (op.out_channels > out.channels) return invalid("the images have more channels than their value");
    return {};
  }

  if (!in_range(op.input, t.value_count)) return invalid("an operation's input is no value");
  const Value& in = t.values[op.input];
  if (op.out_channels != out.channels) return invalid("an operation's out_channels is not its value's");
  if (!leaf && clash(in, out, layout, kind == Kind::combine || kind == Kind::gate))
    return invalid("an operation's output overlaps its input");
  switch (kind) {
    case Kind::conv2d:
    case Kind::linear: {
      if (const Status status = check_weighted(op, in); !status.ok()) return status;
      if (kind == Kind::conv2d) {
        if (const Status status = check_window(op, in, out); !status.ok()) return status;
      } else if (out.height != 1 || out.width != 1) {
        return invalid("a linear operation's output has positions");
      }
      const int64_t bytes = layout.packed_bytes(op, in, storage);
      if (op.weight < 0 || op.weight % scratch_line || !t.weights || op.weight > t.weight_bytes - bytes)
        return invalid("an operation's weight is missing, misaligned or beyond the packed weights");
      break;
    }
    case Kind::max_pool:
    case Kind::avg_pool:
      if (const Status status = check_window(op, in, out); !status.ok()) return status;
      if (2 * op.padding > op.kernel) return invalid("a pool's padding is more than half its kernel");
      if (in.channels != out.channels) return invalid("a pool changes the channels");
      break;
    case Kind::global_pool:
      if (out.height != 1 || out.width != 1) return invalid("a global pool's output has positions");
      if (in.channels != out.channels) return invalid("a pool changes the channels");
      break;
    case Kind::opaque:
      if (leaf || op.input_norm != -1 || op.input_activation != no_activation || op.other_norm != -1 ||
          op.other_activation != no_activation || op.output_norm != -1 || op.activation != no_activation ||
          op.statistics != -1 || op.bias != -1)
        return invalid("an opaque operation reads and writes plain values");
      break;
    case Kind::arrange:
      if (!same_size(in, out)) return invalid("an arrangement's input and output differ in size");
      break;
    default:
      if (in.channels != out.channels || !same_size(in, out))
        return invalid("a combination's input and output differ in shape");
  }

  if (const Status status = check_other(t, op, in, out); !status.ok()) return status;
  if (op.other != -1) {
    const Value& other = t.values[op.other];
    if (!leaf && clash(other, out, layout, !is_binary(op)))
      return invalid("an operation's output overlaps its other");
    if (const Status status = check_norm(t, op.other_norm, other.channels); !status.ok()) return status;
  }
  if (const Status status = check_norm(t, op.input_norm, in.channels); !status.ok()) return status;
  if (const Status status = check_norm(t, op.output_norm, out.channels); !status.ok()) return status;
  if (const Status status = check_norm(t, op.statistics, out.channels); !status.ok()) return status;
  if (op.bias != -1 && (op.bias < 0 || !t.biases || op.bias > t.bias_count - op.out_channels))
    return invalid("an operation's bias is beyond the biases");
  if (op.statistics != -1) {
    if (!calibration) return invalid("prediction takes no statistics");
    if (leaf || op.output_norm != -1 || (op.other != -1 && !is_binary(op)) || op.activation != no_activation)
      return invalid("an operation that takes statistics stores its plain output");
  }
  return {};
}

}  // namespace

Status check_weighted(const Operation& op, const Value& input) {
  if (const Status status = check_value(input); !status.ok()) return status;
  if (op.out_channels < 1 || op.out_channels > largest_side)
    return invalid("an operation's out_channels is out of range");
  if (op.kind == Kind::linear) {
    if (elements(input) > largest_side) return invalid("a linear operation has too many inputs");
    return {};
  }
  if (op.kind != Kind::conv2d) return invalid("only convolutions and linear operations have weights");
  if (op.groups != 1 && (op.groups != input.channels || op.groups != op.out_channels))
    return invalid("groups is neither 1 nor the number of channels");
  return check_window(op, input, Value{});
}

Status check_winograd(const Operation& op, Dtype storage, Isa isa) {
  if (op.tile == 0) return {};
  if (op.tile != 2 && op.tile != 4) return invalid("an operation's tile is none of 0, 2 and 4");
  if (op.kind != Kind::conv2d || op.kernel != 3 || op.stride != 1 || op.groups != 1)
    return invalid("an operation with a tile is no 3x3 convolution of one group and stride 1");
  if (by_tiles(storage, isa) || (by_pairs(storage, isa) && op.tile > 2))
    return invalid("an operation's tile is for other products of bf16 values");
  return {};
}

Status check_range(const ScheduleTables& t, Range range) {
  if (range.first < 0 || range.last < range.first || range.last > t.operation_count)
    return invalid("a range of operations is not within them");
  for (int64_t i = range.first; i < range.last; ++i)
    if (t.operations[i].kind == Kind::opaque) return invalid("an opaque operation is run by the caller");
  return {};
}

Status check_tables(const ScheduleTables& t, Dtype storage, Room own, Room shared, bool calibration,
                    const ScheduleLayout& layout) {
  if (!is_known(storage)) return invalid("the storage is unknown");
  if (own.capacity < 1 || own.capacity > INT32_MAX) return invalid("there must be at least one image");
  if (t.value_count < 1 || t.operation_count < 1 || t.norm_count < 0 || t.channel_count < 0 || !t.values ||
      !t.operations || (t.norm_count && !t.norms))
    return invalid("a table is missing");
  if (reinterpret_cast<uintptr_t>(t.weights) % scratch_line) return invalid("the weights are not aligned");
  const int64_t item = itemsize(storage);
  for (int64_t i = 0; i < t.value_count; ++i) {
    const Value& v = t.values[i];
    if (const Status status = check_value(v); !status.ok()) return status;
    if (calibration && v.shared) return invalid("calibration has one arena, and shares no value");
    const Room& room = v.shared ? shared : own;
    if (room.bytes >= 0 && room.capacity > 0 &&
        v.offset + layout.elements(v) > room.bytes / item / room.capacity)
      return invalid("a value is beyond the arena");
  }
  for (int64_t i = 0; i < t.norm_count; ++i) {
    const Norm& n = t.norms[i];
    if (n.channels < 1 || n.offset < 0 || n.offset > t.channel_count - n.channels)
      return invalid("a norm is beyond the tables of channels");
  }
  if (t.norm_count && (!t.scale || !t.shift)) return invalid("scale or shift is missing");
  if (t.norm_count && calibration && (!t.gamma || !t.beta || !t.mean || !t.variance))
    return invalid("gamma, beta, mean or variance is missing");
  int64_t leaves = 0, classes = 0;
  const Operation* images = nullptr;
  for (int64_t i = 0; i < t.operation_count; ++i) {
    const Operation& op = t.operations[i];
    if (const Status status = check_operation(t, op, storage, layout, calibration); !status.ok())
      return status;
    if (op.kind == Kind::input) {
      if (images && (images->out_channels != op.out_channels ||
                     t.values[images->output].height != t.values[op.output].height ||
                     t.values[images->output].width != t.values[op.output].width))
        return invalid("input operations differ in the size of their images");
      images = &op;
    }
    if (op.leaf < 0) continue;
    if (leaves++ && op.out_channels != classes) return invalid("leaves differ in their number of classes");
    classes = op.out_channels;
  }
  for (int64_t i = 0; i < t.operation_count; ++i)
    if (t.operations[i].leaf >= leaves) return invalid("a leaf's number is not below the number of leaves");
  return {};
}

Status check_schedule(const ScheduleTables& t, Dtype storage, Isa isa, int threads, Room own, Room shared,
                      bool calibration) {
  if (!isa_supported(isa)) return unsupported("this machine or build lacks the instruction set asked for");
  if (threads < 1 || threads > 1 << 16) return invalid("threads must be at least 1");
  for (int64_t i = 0; t.operations && i < t.operation_count; ++i)
    if (const Status status = check_winograd(t.operations[i], storage, isa); !status.ok()) return status;
  const auto packed = [isa](const Operation& op, const Value& input, Dtype storage) {
    return schedule_packed_bytes_cpu(op, input, storage, isa);
  };
  return check_tables(t, storage, own, shared, calibration, {elements, packed});
}

}  // namespace lasfast
