// Compares what instruction sets compute with what the generic kernels do, with neither Python nor torch: for
// processors that are emulated. `compare_isas NAME...` fails where one of these is not supported.
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "compare.h"

namespace compare {

Isa isa = Isa::generic;
int cases = 0, failures = 0;

Memory::Memory(int64_t bytes, unsigned char fill) : bytes_(bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t pages = (static_cast<size_t>(bytes) + page - 1) / page * page;
  void* const all = mmap(nullptr, pages + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (all == MAP_FAILED || mprotect(static_cast<char*>(all) + pages, page, PROT_NONE) != 0) {
    std::perror("mmap");
    std::exit(2);
  }
  char* const data = static_cast<char*>(all) + pages - bytes;
  data_ = std::shared_ptr<char>(data, [=](char*) { munmap(all, pages + page); });
  std::memset(data, fill, static_cast<size_t>(bytes));
}

float Tensor::get(int64_t i) const {
  uint32_t bits = 0;
  if (dtype == Dtype::float32)
    std::memcpy(&bits, memory.data() + 4 * i, 4);
  else
    std::memcpy(reinterpret_cast<char*>(&bits) + 2, memory.data() + 2 * i, 2);
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// (Of a bf16 value, the lower half is left out: it is zero in what is set here.)
void Tensor::set(int64_t i, float value) const {
  if (dtype == Dtype::float32)
    std::memcpy(memory.data() + 4 * i, &value, 4);
  else
    std::memcpy(memory.data() + 2 * i, reinterpret_cast<const char*>(&value) + 2, 2);
}

Tensor random(int64_t count, Dtype dtype, uint32_t seed) {
  Tensor values(count, dtype, 0);
  uint32_t state = seed * 2654435761u + 12345u;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    const int level = static_cast<int>(state >> 24) - 128;  // eight bits, as bf16 has
    values.set(i, static_cast<float>(level == 0 ? 1 : level) / 128);
  }
  return values;
}

void must(const lasfast::Status& status) {
  if (status.ok()) return;
  std::printf("a call failed: %s\n", status.what);
  std::exit(2);
}

namespace {

bool same_bits(const Results& a, const Results& b) {
  for (size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(a[i].data(), b[i].data(), static_cast<size_t>(a[i].memory.bytes())) != 0) return false;
  return true;
}

// The distance between two tensors, relative to the second; infinite where values that are not finite differ.
double distance(const Tensor& a, const Tensor& b) {
  double difference = 0, norm = 1e-30;
  for (int64_t i = 0; i < b.count; ++i) {
    const double x = a.get(i), y = b.get(i);
    if (!std::isfinite(y)) {
      if (std::isnan(y) ? !std::isnan(x) : x != y) return INFINITY;
      continue;
    }
    difference += (x - y) * (x - y);
    norm += y * y;
  }
  return std::isnan(difference) ? INFINITY : std::sqrt(difference / norm);
}

void fail(const std::string& name, const char* what, double number) {
  ++failures;
  std::printf("%s, %s: %s (%g)\n", lasfast::isa_name(isa), name.c_str(), what, number);
}

}  // namespace

void check(const std::string& name, double tolerance, const Run& run) { check(name, tolerance, run, run); }

void check(const std::string& name, double tolerance, const Run& run, const Run& reference) {
  ++cases;
  const Results one = run(isa, 1, 0x00), two = run(isa, 2, 0xff), right = reference(Isa::generic, 1, 0x00);
  if (!same_bits(one, two)) fail(name, "two runs differ", 0);
  for (size_t i = 0; i < right.size(); ++i) {
    const double d = distance(one[i], right[i]);
    if (!(d <= tolerance)) fail(name, "the result is too far from the generic kernels', by number", d);
  }
}

}  // namespace compare

int main(int count, char** names) {
  using namespace compare;
  std::printf("supported:");
  for (int i = 0; i < lasfast::isa_count; ++i)
    if (lasfast::isa_supported(static_cast<Isa>(i))) std::printf(" %s", isa_name(static_cast<Isa>(i)));
  std::printf("\npreferred: %s\n", isa_name(lasfast::isa_preferred()));
  for (int k = 1; k < count; ++k) {
    int i = 0;
    while (i < lasfast::isa_count && std::strcmp(names[k], isa_name(static_cast<Isa>(i))) != 0) ++i;
    if (i == lasfast::isa_count || !lasfast::isa_supported(static_cast<Isa>(i))) {
      std::printf("%s is not supported\n", names[k]);
      return 2;
    }
    isa = static_cast<Isa>(i);
    cases = 0;
    compare_passes();
    compare_schedules();
    std::printf("%s: %d cases\n", names[k], cases);
  }
  return failures == 0 ? 0 : 1;
}
