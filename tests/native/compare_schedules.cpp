// Schedules: a network of all operations, calibrated and predicted.
#include <algorithm>
#include <string>

#include "compare.h"
#include "lasfast/round.h"
#include "lasfast/schedule.h"

namespace compare {
namespace {

using namespace lasfast;

constexpr int64_t line = 64;  // bytes: what arenas and weights are aligned to

int32_t narrow(int64_t value) { return static_cast<int32_t>(value); }

// Operations in their order, each on a level of its own, whose values all have a place of their own. For
// calibration, batch norms take statistics, and whoever reads their values normalises them; for prediction,
// convolutions do so with what they store.
class Network {
 public:
  Network(Dtype storage, Isa isa, bool calibration)
      : storage_(storage), isa_(isa), calibration_(calibration) {}

  int images(int64_t channels, int64_t height, int64_t width) {
    Operation& op = add(Kind::input, -1, add_value(channels + 1, height, width));  // one channel of zeros
    op.out_channels = narrow(channels);
    return op.output;
  }

  // groups: 1, or the channels.
  int conv(int input, int64_t channels, int64_t kernel, int64_t stride, Activation activation,
           bool depthwise = false, int64_t tile = 0) {
    const int64_t padding = kernel / 2, height = out_size(input, kernel, stride).height;
    const int output = add_value(channels, height, out_size(input, kernel, stride).width);
    Operation& op = add(Kind::conv2d, input, output);
    op.kernel = narrow(kernel), op.stride = narrow(stride), op.padding = narrow(padding);
    op.groups = depthwise ? values_[input].channels : 1;
    op.tile = storage_ == Dtype::float32 || !tile ? narrow(tile) : 2;  // as pairs of bf16 values allow
    add_weight(op);
    add_norm(op, activation);
    return output;
  }

  int pool(Kind kind, int input, int64_t kernel, int64_t stride) {
    const Value size = out_size(input, kernel, stride);
    Operation& op = add(kind, input, add_value(values_[input].channels, size.height, size.width));
    op.kernel = narrow(kernel), op.stride = narrow(stride), op.padding = narrow(kernel / 2);
    return op.output;
  }

  int global_pool(int input) {
    return add(Kind::global_pool, input, add_value(values_[input].channels, 1, 1)).output;
  }

  // input + other, or their product.
  int join(Kind kind, int input, int other, Activation activation) {
    const Value size = values_[input];
    Operation& op = add(kind, input, add_value(size.channels, size.height, size.width));
    read_other(op, other);
    op.activation = activation;
    return op.output;
  }

  // A convolution, to whose normalised sums another value of its size, or of fewer channels, is added.
  int residual(int input, int other, int64_t channels) {
    if (calibration_) {
      const int sums = conv(input, channels, 1, 1, Activation::none);
      return join(Kind::combine, sums, other, Activation::relu);
    }
    const int output = conv(input, channels, 1, 1, Activation::relu);
    read_other(operations_.back(), other);
    return output;
  }

  int arrange(int input, int other, int64_t first, int64_t channels, int64_t groups) {
    const Value size = values_[input];
    Operation& op = add(Kind::arrange, input, add_value(channels, size.height, size.width));
    if (other >= 0) read_other(op, other);
    op.first = narrow(first), op.groups = narrow(groups);
    return op.output;
  }

  int linear(int input, int64_t features, Activation activation) {
    Operation& op = add(Kind::linear, input, add_value(features, 1, 1));
    add_weight(op);
    add_bias(op);
    op.activation = activation;
    return op.output;
  }

  // Class scores, which prediction has alone.
  void leaf(int input, int64_t classes) {
    if (calibration_) return;
    linear(input, classes, Activation::none);
    Operation& op = operations_.back();
    values_.pop_back();
    op.output = -1;
    op.leaf = leaves_++;
  }

  // All values of the batch, then means and variances; or the logits.
  Results run(const Tensor& images, int64_t count, int64_t block, bool bytes, int threads,
              unsigned char fill);

 private:
  Value out_size(int input, int64_t kernel, int64_t stride) const {
    const Value& in = values_[input];
    return {in.channels, narrow((in.height + kernel / 2 * 2 - kernel) / stride + 1),
            narrow((in.width + kernel / 2 * 2 - kernel) / stride + 1), 0, 0};
  }
  int add_value(int64_t channels, int64_t height, int64_t width) {
    values_.push_back({narrow(channels), narrow(height), narrow(width), 0, elements_});
    norm_of_.push_back(-1);
    activation_of_.push_back(Activation::none);
    elements_ += round_to(channels * height * width, line);
    return narrow(static_cast<int64_t>(values_.size()) - 1);
  }
  Operation& add(Kind kind, int input, int output) {
    Operation op{};
    op.kind = kind;
    op.level = narrow(static_cast<int64_t>(operations_.size()));
    op.input = input, op.other = -1, op.output = output, op.leaf = -1;
    op.kernel = op.stride = op.groups = 1;
    op.input_norm = input < 0 ? -1 : norm_of_[input];
    op.input_activation = input < 0 ? Activation::none : activation_of_[input];
    op.other_norm = op.output_norm = op.statistics = -1;
    op.out_channels = values_[output].channels;
    op.weight = op.bias = -1;
    operations_.push_back(op);
    return operations_.back();
  }
  void read_other(Operation& op, int other) {
    op.other = other;
    op.other_norm = norm_of_[other];
    op.other_activation = activation_of_[other];
  }
  void add_weight(Operation& op) {
    op.weight = weight_bytes_;
    const Value& input = values_[op.input];
    weight_bytes_ += round_to(schedule_packed_bytes_cpu(op, input, storage_, isa_), line);
  }
  void add_bias(Operation& op) {
    op.bias = biases_;
    biases_ += op.out_channels;
  }
  void add_norm(Operation& op, Activation activation) {
    add_bias(op);
    const int32_t norm = narrow(static_cast<int64_t>(norms_.size()));
    norms_.push_back({op.out_channels, narrow(channels_), 1e-3f, 0});
    channels_ += op.out_channels;
    if (!calibration_) {
      op.output_norm = norm;
      op.activation = activation;
      return;
    }
    op.statistics = norm;
    norm_of_[op.output] = norm;
    activation_of_[op.output] = activation;
  }

  Dtype storage_;
  Isa isa_;
  bool calibration_;
  std::vector<Value> values_;
  std::vector<Norm> norms_;
  std::vector<Operation> operations_;
  std::vector<int32_t> norm_of_;
  std::vector<Activation> activation_of_;
  int64_t elements_ = 0, weight_bytes_ = 0, biases_ = 0, channels_ = 0;
  int32_t leaves_ = 0;
};

Results Network::run(const Tensor& images, int64_t count, int64_t block, bool bytes, int threads,
                     unsigned char fill) {
  const Tensor weights(weight_bytes_ / 4, Dtype::float32, fill);
  for (const Operation& op : operations_) {
    if (op.weight < 0) continue;
    const Value& in = values_[op.input];
    const bool flat = op.kind == Kind::linear;
    const int64_t ins = flat ? int64_t{in.channels} * in.height * in.width : in.channels / op.groups;
    const int64_t stride[4] = {ins * op.kernel * op.kernel, op.kernel * op.kernel, op.kernel, 1};
    const Tensor weight = random(op.out_channels * stride[0], Dtype::float32, 11 + op.level);
    char* const packed = static_cast<char*>(weights.data()) + op.weight;
    must(schedule_pack_cpu(op, in, storage_, isa_, weight.floats(), stride, packed));
  }
  const Tensor biases = random(biases_, Dtype::float32, 3), pixels = random(3 * 256, Dtype::float32, 4);
  const Tensor gamma = random(channels_, Dtype::float32, 5), beta = random(channels_, Dtype::float32, 6);
  const Tensor scale = random(channels_, Dtype::float32, 7), shift = random(channels_, Dtype::float32, 8);
  const Tensor mean(channels_, Dtype::float32, fill), variance(channels_, Dtype::float32, fill);
  ScheduleTables t{};
  t.values = values_.data(), t.value_count = static_cast<int64_t>(values_.size());
  t.norms = norms_.data(), t.norm_count = static_cast<int64_t>(norms_.size());
  t.operations = operations_.data(), t.operation_count = static_cast<int64_t>(operations_.size());
  t.weights = weights.data(), t.weight_bytes = weight_bytes_;
  t.biases = biases.floats(), t.bias_count = biases_;
  t.gamma = gamma.floats(), t.beta = beta.floats(), t.scale = scale.floats(), t.shift = shift.floats();
  t.mean = mean.floats(), t.variance = variance.floats(), t.channel_count = channels_;
  t.pixels = bytes ? pixels.floats() : nullptr;

  const int64_t together = calibration_ ? count : block;
  const int64_t scratch_bytes =
      round_to(schedule_scratch_bytes_cpu(t, storage_, isa_, together, threads, calibration_), line);
  const int64_t arena_bytes = round_to(elements_ * together * itemsize(storage_), line);
  const Memory scratch(scratch_bytes, fill), arenas(arena_bytes * threads, fill);
  const Range all{0, t.operation_count};
  Results results;
  if (!calibration_) {
    const Tensor logits(leaves_ * count * operations_.back().out_channels, Dtype::float32, fill);
    must(schedule_predict_cpu(t, storage_, isa_, threads, all, images.data(), count, block, nullptr, 0,
                              arenas.data(), arena_bytes, scratch.data(), logits.floats()));
    return {logits};
  }
  must(schedule_calibrate_cpu(t, storage_, isa_, threads, all, images.data(), count, arenas.data(),
                              arena_bytes, scratch.data()));
  for (const Value& v : values_) {
    const int64_t size = int64_t{v.channels} * v.height * v.width * count;
    const Tensor value(size, storage_, 0);
    const char* const from = arenas.data() + v.offset * count * itemsize(storage_);
    std::copy_n(from, size * itemsize(storage_), static_cast<char*>(value.data()));
    results.push_back(value);
  }
  results.insert(results.end(), {mean, variance});
  return results;
}

// All operations, of about `c` channels.
void build(Network& n, int64_t c, int64_t height, int64_t width) {
  const int images = n.images(3, height, width);
  const int stem = n.conv(images, c, 3, 1, Activation::relu);
  const int two = n.conv(stem, c + 3, 3, 1, Activation::relu6, false, 2);
  const int four = n.conv(two, c + 1, 3, 1, Activation::hardswish, false, 4);
  const int sliding = n.conv(four, c + 1, 3, 1, Activation::swish, true);
  const int wide = n.conv(sliding, c + 1, 5, 1, Activation::none, true);
  const int sum = n.residual(wide, stem, 2 * c + 1);
  const int half = n.conv(sum, c + 2, 5, 2, Activation::relu);
  const int slid = n.conv(half, c + 2, 7, 2, Activation::relu, true);
  const int largest = n.pool(Kind::max_pool, half, 3, 2), average = n.pool(Kind::avg_pool, half, 3, 2);
  const int both = n.join(Kind::combine, largest, average, Activation::hardswish);
  const int squeezed = n.linear(n.global_pool(both), c + 2, Activation::sigmoid);
  const int gated = n.join(Kind::gate, both, squeezed, Activation::hardsigmoid);
  const int shuffled = n.arrange(gated, slid, 0, 2 * c + 4, 2);
  const int sliced = n.arrange(shuffled, -1, 3, c, 1);
  const int last = n.conv(sliced, 2 * c, 1, 2, Activation::relu);
  n.leaf(last, 5);
  n.leaf(n.global_pool(shuffled), 5);
}

void compare_network(int64_t channels, int64_t height, int64_t width, Dtype storage, bool bytes) {
  constexpr int64_t count = 5;
  const int64_t pixels = count * 3 * height * width;
  const Tensor images = random(bytes ? divide_up(pixels, 4) : pixels, Dtype::float32, 1);
  // Values that are computed of rounded ones are themselves rounded otherwise here and there, from layer to
  // layer.
  const double tolerance = storage == Dtype::float32 ? 2e-5 : 2e-2;
  for (const bool calibration : {true, false})
    check(std::string(calibration ? "calibration" : "prediction") + ", " + std::to_string(channels) +
              " channels" + (storage == Dtype::float32 ? "" : ", bf16"),
          tolerance, [&](Isa isa, int threads, unsigned char fill) {
            Network network(storage, isa, calibration);
            build(network, channels, height, width);
            return network.run(images, count, 3, bytes, threads, fill);
          });
}

}  // namespace

void compare_schedules() {
  for (const Dtype storage : {Dtype::float32, Dtype::bfloat16}) {
    compare_network(3, 9, 11, storage, false);
    compare_network(8, 8, 8, storage, true);
    compare_network(21, 10, 7, storage, false);
  }
}

}  // namespace compare
