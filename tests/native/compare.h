// What the programs of this folder share: tensors whose memory is guarded, and the comparison of what an
// instruction set computes with what the generic kernels do.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lasfast/dtype.h"
#include "lasfast/isa.h"
#include "lasfast/status.h"

namespace compare {

using lasfast::Dtype;
using lasfast::Isa;

// Memory that ends where the next page may not be touched: reading or writing beyond it ends the program. It
// begins at a multiple of `alignment` where the bytes are one.
class Memory {
 public:
  Memory(int64_t bytes, unsigned char fill);
  char* data() const { return data_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_;
  std::shared_ptr<char> data_;
};

// Dense values in such memory.
struct Tensor {
  Dtype dtype;
  int64_t count;
  Memory memory;

  // Not yet computed: all bytes are `fill`.
  Tensor(int64_t count, Dtype dtype, unsigned char fill)
      : dtype(dtype), count(count), memory(count * itemsize(dtype), fill) {}
  void* data() const { return memory.data(); }
  float* floats() const { return reinterpret_cast<float*>(memory.data()); }
  float get(int64_t i) const;
  void set(int64_t i, float value) const;
};

// Values between -1 and 1 that bf16 has, too.
Tensor random(int64_t count, Dtype dtype, uint32_t seed);

// What one run of a case computed. `fill` is what results held before: what is not written differs by it.
using Results = std::vector<Tensor>;
using Run = std::function<Results(Isa isa, int threads, unsigned char fill)>;

// Runs a case with the instruction set at hand on one thread and on two, which has to give the same bits, and
// with the generic kernels, from which results may differ by `tolerance`, relative and in norm.
void check(const std::string& name, double tolerance, const Run& run);

// The same for a case that the generic kernels run otherwise: `reference` gives what is right.
void check(const std::string& name, double tolerance, const Run& run, const Run& reference);

// Ends the program, with what was wrong, where a call failed.
void must(const lasfast::Status& status);

extern Isa isa;              // that is compared
extern int cases, failures;  // so far

void compare_passes();
void compare_schedules();

}  // namespace compare
