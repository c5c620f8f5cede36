// The update of sgd.h on the CPU: chunks, shared by the threads. Compiled for the base architecture, since it
// waits for memory; products and sums are so rounded one by one, as PyTorch's separate operators do.

#include "lasfast/sgd.h"

#include <algorithm>
#include <cmath>

#include "threads.h"

namespace lasfast {
namespace {

constexpr int64_t most_values = int64_t{1} << 31;

// Calls run(offset, count) for each dense run of values begin to end of a part.
template <class Run>
void for_runs(const SgdPart& part, int64_t begin, int64_t end, const Run& run) {
  const int64_t inner = part.size[2], rows = part.size[1];
  int64_t at = begin % inner, row = begin / inner % rows, block = begin / inner / rows;
  while (begin < end) {
    const int64_t count = std::min(inner - at, end - begin);
    run(block * part.stride[0] + row * part.stride[1] + at, count);
    begin += count;
    at = 0;
    if (++row == rows) {
      row = 0;
      ++block;
    }
  }
}

template <class Run>
void for_chunks(const SgdParams& p, const SgdPart* parts, int threads, const Run& run) {
  double values_of_all = 0;
  for (int64_t i = 0; i < p.parts; ++i)
    values_of_all += double{1} * parts[i].size[0] * parts[i].size[1] * parts[i].size[2];
  // Three tensors are read, and two are written.
  const int team = paying_threads(threads, p.chunks, values_of_all * 5 * sizeof(float) * byte_ns);
#pragma omp parallel for num_threads(team) schedule(static)
  for (int64_t chunk = 0; chunk < p.chunks; ++chunk) {
    const SgdPart* const part =
        std::upper_bound(parts, parts + p.parts, chunk,
                         [](int64_t c, const SgdPart& other) { return c < other.first_chunk; }) -
        1;
    const int64_t values = part->size[0] * part->size[1] * part->size[2];
    const int64_t begin = (chunk - part->first_chunk) * sgd_chunk;
    for_runs(*part, begin, std::min(begin + sgd_chunk, values),
             [&](int64_t offset, int64_t count) { run(chunk, *part, offset, count); });
  }
}

double sum_squares(const float* values, int64_t count) {
  double sums[8] = {};
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    for (int j = 0; j < 8; ++j) sums[j] += static_cast<double>(values[i + j]) * values[i + j];
  for (; i < count; ++i) sums[0] += static_cast<double>(values[i]) * values[i];
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

float clipped_scale(const SgdParams& p, const SgdPart* parts, double* squares, int threads) {
  std::fill(squares, squares + p.chunks, 0.);
  for_chunks(p, parts, threads, [&](int64_t chunk, const SgdPart& part, int64_t offset, int64_t count) {
    squares[chunk] += sum_squares(part.gradient + offset, count);
  });
  double sum = 0;
  for (int64_t i = 0; i < p.chunks; ++i) sum += squares[i];
  const double most = p.clip_norm / (std::sqrt(sum) * std::abs(p.gradient_scale) + 1e-6);
  return static_cast<float>(most >= 1 ? p.gradient_scale : p.gradient_scale * most);  // NaN stays NaN
}

template <bool decay, bool momentum, bool nesterov>
void update(const SgdParams& p, float scale, const float* gradient, int64_t count, float* weight,
            float* momenta) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    float g = gradient[i] * scale;
    if (decay) g += weight[i] * p.weight_decay;
    if (momentum) {
      const float m = momenta[i] * p.momentum + g;
      momenta[i] = m;
      g = nesterov ? g + m * p.momentum : m;
    }
    weight[i] -= g * p.learning_rate;
  }
}

template <bool decay>
auto choose_update(const SgdParams& p) {
  if (p.momentum == 0) return &update<decay, false, false>;
  return p.nesterov ? &update<decay, true, true> : &update<decay, true, false>;
}

}  // namespace

Status sgd_chunks(SgdPart* parts, int64_t count, int64_t* chunks) {
  *chunks = 0;
  for (int64_t i = 0; i < count; ++i) {
    SgdPart& part = parts[i];
    int64_t values = 1;
    for (const int64_t size : part.size) {
      if (size < 0) return invalid("sizes must not be negative");
      if (size > most_values || (values *= size) > most_values)
        return unsupported("a part of more than 2^31 values");
    }
    part.first_chunk = *chunks;
    *chunks += (values + sgd_chunk - 1) / sgd_chunk;
  }
  return {};
}

int64_t sgd_workspace(int64_t chunks) { return (chunks + 1) * int64_t{sizeof(double)}; }

Status sgd_cpu(const SgdParams& p, const SgdPart* parts, void* workspace, int threads) {
  if (p.parts < 0 || p.chunks < 0) return invalid("parts and chunks must not be negative");
  if (threads < 1) return invalid("threads must be at least 1");
  const float scale =
      p.clip_norm > 0 ? clipped_scale(p, parts, static_cast<double*>(workspace), threads) : p.gradient_scale;
  const auto plain = choose_update<false>(p);
  const auto decaying = p.weight_decay == 0 ? plain : choose_update<true>(p);
  for_chunks(p, parts, threads, [&](int64_t, const SgdPart& part, int64_t offset, int64_t count) {
    const auto run = part.decays != 0 ? decaying : plain;
    run(p, scale, part.gradient + offset, count, part.weight + offset,
        part.momentum == nullptr ? nullptr : part.momentum + offset);
  });
  return {};
}

}  // namespace lasfast
