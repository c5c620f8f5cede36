// The plan of a schedule: the bytes that schedule_plan_cuda writes, and that the host reads when it launches,
// and the device when it computes.
//
// A plan is a header, launches and problems. A launch is all operations of one level that one kernel
// computes; a problem is one of them. Its output is cut into tiles of positions and channels, and the blocks
// of a launch are the tiles of its problems, one problem after another.
#pragma once

#include <cstdint>

#include "block.h"
#include "lasfast/schedule.h"

namespace lasfast {

namespace device {
struct TensorMap;
}

constexpr int plane_chunks = 8;         // the most chunks side by side in a tile of other operations
constexpr int plane_rows = 4;           // positions of such a tile that a thread computes
constexpr int64_t resident_blocks = 2;  // the most blocks of the resident kernel on a multiprocessor

// The kernel that computes an operation. Convolutions come first, by the number of their tile.
enum class Work : int32_t {
  depthwise = cuda_conv_tile_count,
  max_pool,
  avg_pool,
  global_pool,
  combine,
  gate,
  arrange,
  input,
};
constexpr int work_count = cuda_conv_tile_count + 8;

constexpr bool is_conv(Work work) { return work < Work::depthwise; }
constexpr CudaConvTile conv_tile(Work work) { return cuda_conv_tiles[static_cast<int>(work)]; }

// A value as an operation reads it. `norm` is the place of its first channel in scale and shift, or -1 where
// it has no norm.
struct Term {
  int64_t offset;                          // elements from the beginning of the arena
  int32_t channels, pitch, height, width;  // pitch: from position to position; channels = 0: no value
  int32_t norm;
  Activation activation;
};

struct Problem {
  int64_t first_tile;  // of this problem among those of its launch
  int32_t row_tiles, column_tiles;
  int32_t rows, columns;  // of a tile: positions, channels
  Term input, other;
  int64_t output;  // elements from the beginning of the arena
  int32_t leaf;    // or -1
  int32_t out_channels, out_pitch, out_height, out_width;
  int32_t kernel_height, kernel_width, stride, padding;
  int32_t norm;  // of the output, as in Term
  Activation activation;
  int32_t depth;          // of a convolution: elements in a row of its packed weight
  int32_t adds;           // whether other is added to the result; else it is an operand, or missing
  int32_t first, groups;  // of an arrangement
  Work work;
  int64_t weight;      // bytes from the beginning of the weights
  int64_t bias;        // or -1
  int64_t partial;     // statistics: floats from the beginning of the scratch, or -1;
                       // [row tiles][mean, squared deviations][out_pitch]
  int64_t pooled;      // the same for doubles [tile groups][mean, squared deviations][out_pitch]
  int32_t statistics;  // of its first channel in mean, variance, ...
  float eps;
  int32_t tile_groups;
  int32_t counters;  // the first of [column tiles][1 + groups]: groups, and blocks of each, that arrived
};
static_assert(sizeof(Problem) % 16 == 0, "it is copied 16 bytes at a time");
static_assert(sizeof(Problem) / sizeof(int32_t) <= block_threads, "a thread copies one word");

struct Launch {
  Work work;
  int32_t level;
  int32_t first_problem, problems;
  int64_t blocks, shared_bytes;
  int64_t first_map;  // two tensor maps for each problem, of the input and of the weight; or -1
  int64_t reserved;
};
static_assert(sizeof(Launch) % 16 == 0, "problems come behind launches");

struct alignas(16) LaunchPlan {
  uint64_t mark;  // plan_mark, which tells a plan from other bytes
  int64_t bytes, images, levels, launches, problems, arena_bytes, scratch_bytes, leaves;
  int64_t counters;        // behind the problems; zero but while a launch counts there
  int64_t resident_bytes;  // shared memory of the resident kernel, or 0 where the plan is not for that
  int64_t maps;
  int32_t bfloat16, tf32;

  const Launch* first_launch() const { return reinterpret_cast<const Launch*>(this + 1); }
  const Problem* first_problem() const { return reinterpret_cast<const Problem*>(first_launch() + launches); }
  const uint32_t* first_counter() const {
    return reinterpret_cast<const uint32_t*>(first_problem() + problems);
  }
};
constexpr uint64_t plan_mark = 0x336e616c7066736cull;

// The argument of every kernel of a schedule.
struct PassArgs {
  const Problem* problems;  // of the launch
  int64_t problem_count;
  int64_t count;  // images
  const void* images;
  const float* pixels;  // the values that bytes stand for, or null
  void* arena;
  float* logits;
  int64_t logit_images;
  const char* weights;
  const float *biases, *gamma, *beta;
  float *scale, *shift, *mean, *variance;
  float* partial;
  uint32_t* counters;
  int64_t first;                  // the image of the batch that is image 0 of the values
  const device::TensorMap* maps;  // of the launch
  bool early;                     // whether the launch may begin before what is queued before it has ended
};

}  // namespace lasfast
