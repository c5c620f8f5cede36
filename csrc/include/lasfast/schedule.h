// A prefix tree of networks lowered to fused operations, a schedule, and what runs it.
//
// A schedule is an array of Operation records over Values. It is plain data: Python fills the arrays, and one
// call runs a whole pass over one batch of images.
//
// Values are NHWC, [images, height, width, channels], stored as fp32 or bf16 (all alike) in an arena: value
// v of image i begins at element  v.offset * capacity + i * v.height * v.width * v.channels,  where capacity
// is how many images the arena has room for. Vectors (features) have height = width = 1. Offsets of values
// that are never alive together may overlap; an operation's output never overlaps its inputs.
//
// The caller itself runs opaque operations, on values in the arena; both calls below take a range of
// operations that has none. Prediction in several ranges needs two arenas, since blocks of images go through
// a range at different times: a value that operations of different ranges read and write is `shared`, and
// overlaps no other shared value of a range that its life touches, even where one of them is dead by then.
//
// Every operation computes
//
//   output = act( norm_o( op( act_i( norm_i(input) ) ) + bias ) + act_x( norm_x(other) ) )
//
// in fp32. Here norm(v) = scale[c] * v + shift[c] is a batch norm as an affine map; there is none where its
// index is -1. `other` has the output's height and width and at most as many channels, of which missing ones
// count as zero; nothing is added where it is -1. Padding is zero *after* norm_i and act_i, as in the network
// it came from. Two kinds, gate and arrange, add nothing: op has two operands there, and
// act_x(norm_x(other)) is the second.
// Values that are not finite do what they do by that definition, but for convolutions with a tile on the CPU:
// there they may make all outputs of their tiles NaN.
//
// Calibration: an operation with `statistics` >= 0 has no norm_o, activation or sum; it stores op(...) + bias
// and takes mean and biased variance of that norm's channels over all images and positions of the batch,
// from the fp32 values before they are rounded to storage. When all images are done, mean[], variance[] and
// the norm's scale and shift are written: operations of later levels read them. The statistics do not depend
// on the number of threads: the same inputs give the same bits.
//
// Prediction: scale and shift are given, and no operation has statistics.
#pragma once

#include <cstdint>

#include "lasfast/activation.h"
#include "lasfast/dtype.h"
#include "lasfast/isa.h"
#include "lasfast/status.h"

namespace lasfast {

enum class Kind : int32_t {
  input = 0,        // output = the images, NCHW in, NHWC out (channels beyond the images' are zero)
  conv2d = 1,       // groups = 1, or groups = channels (depthwise)
  max_pool = 2,     // padded positions never win
  avg_pool = 3,     // padded positions do not count
  global_pool = 4,  // mean over height and width
  combine = 5,      // op is the identity: for norm, activation and sum of values at rest
  linear = 6,       // [images, features] -> [images, features]; flattens NHWC -> (c, h, w) order if h * w > 1
  gate = 7,     // input times other, one factor for each channel of an image: other has height = width = 1
  arrange = 8,  // channels of input ++ other (which may be missing), `out_channels` of them from `first` on
                // in the order that `groups` says: with C channels in all, number k in that order is
                // channel (k % groups) * (C / groups) + k / groups. Concatenation, shuffle, slice in one
  opaque = 9,   // input (and other) -> output by the caller; no norm, activation, bias or statistics
};
constexpr int kind_count = 10;

// Python has these three as numpy's structured arrays, whose dtypes csrc/bindings/schedule.cpp makes: a field
// is to be named there, too, and none of them has a hole.
struct Value {
  int32_t channels, height, width;
  int32_t shared;  // prediction: 1 in the arena of all images and threads, 0 in that of a block. Else 0
  int64_t offset;  // elements per image
};

struct Norm {
  int32_t channels;
  int32_t offset;  // of its channels in gamma, beta, scale, shift, mean, variance
  float eps;
  int32_t reserved;
};

struct Operation {
  Kind kind;
  int32_t level;  // calibration runs level by level; operations of one level are independent
  int32_t input, other,
      output;    // values; other may be -1. input is -1 for Kind::input; output -1 where leaf >= 0
  int32_t leaf;  // >= 0: the output is fp32 [images, channels] at logits + leaf * images * classes,
                 // not in the arena; it has height = width = 1
  int32_t kernel, stride, padding, groups;
  int32_t input_norm;
  Activation input_activation;
  int32_t other_norm;
  Activation other_activation;
  int32_t output_norm;
  Activation activation;
  int32_t statistics;    // norm, or -1
  int32_t out_channels;  // of the output, whatever the kind; for Kind::input those of the images
  int32_t first;         // of the channels that an arrangement takes; 0 for every other kind
  int32_t tile;          // CUDA: 1 + the number of a convolution's tile, see below; 0: the usual one.
                         // CPU: 2 or 4 output rows and columns that Winograd's algorithm computes at once,
                         // for 3x3 convolutions of one group and stride 1, in fp32, and of bf16 values
                         // that are not multiplied by tiles (2 alone where they are by pairs); 0: a sum
                         // over the window
  int64_t weight;        // byte offset of its packed weight (64-byte aligned), or -1
  int64_t bias;          // offset in biases, or -1
};

constexpr int schedule_max_kernel = 11;

// What a pass reads and writes. Norm tables are laid out by Norm::offset.
struct ScheduleTables {
  const Value* values;
  int64_t value_count;
  const Norm* norms;
  int64_t norm_count;
  const Operation* operations;
  int64_t operation_count;
  const void* weights;   // packed by schedule_pack_cpu for the same storage and isa; 64-byte aligned
  int64_t weight_bytes;  // of all of them
  const float* biases;
  int64_t bias_count;
  const float* gamma;
  const float* beta;
  float* scale;  // these two read in prediction, written in calibration
  float* shift;
  float* mean;  // these two written in calibration (biased variance), unused in prediction
  float* variance;
  int64_t channel_count;  // floats in each of gamma to variance
  // Null: images are fp32. Else they are uint8, and byte b of channel c stands for pixels[c][b]: a table, so
  // that images are normalised to the same bits on every machine.
  const float* pixels;  // [channels of the images, 256]
};

// Bytes of an operation's packed weight, which depends on its tile; 0 where it has none.
int64_t schedule_packed_bytes_cpu(const Operation& operation, const Value& input, Dtype storage, Isa isa);

// Packs the slice weight[:out_channels, :in_channels / groups] (fp32, strides in elements; linear: [out, in,
// 1, 1], its inputs in (c, h, w) order). Overwrites.
Status schedule_pack_cpu(const Operation& operation, const Value& input, Dtype storage, Isa isa,
                         const float* weight, const int64_t weight_stride[4], void* packed);

// Bytes of scratch (64-byte aligned) that calibration of `images` images, or prediction in blocks of
// `images`, needs; 0 where the tables are not valid.
int64_t schedule_scratch_bytes_cpu(const ScheduleTables& tables, Dtype storage, Isa isa, int64_t images,
                                   int threads, bool calibration);

// A range of operations, first .. last - 1.
struct Range {
  int64_t first, last;
};

// One calibration batch. arena: capacity = images. Leaves are not run (no statistics come of them).
Status schedule_calibrate_cpu(const ScheduleTables& tables, Dtype storage, Isa isa, int threads,
                              Range operations, const void* images_nchw, int64_t images, void* arena,
                              int64_t arena_bytes, void* scratch);

// Prediction. Each thread walks the operations in order over blocks of `block` images, in its own arena of
// capacity `block`: arenas lie arena_bytes apart. No barrier between operations. shared_arena: capacity =
// images; null where no value is shared.
Status schedule_predict_cpu(const ScheduleTables& tables, Dtype storage, Isa isa, int threads,
                            Range operations, const void* images_nchw, int64_t images, int64_t block,
                            void* shared_arena, int64_t shared_bytes, void* arenas, int64_t arena_bytes,
                            void* scratch,
                            float* logits);  // [leaves, images, classes]

// ---- CUDA. Values, norms and operations lie on the host; all else that the tables name, and what is below,
// in memory of one device, in place before the work queued on `stream` runs. Otherwise as above, but:
// - Positions hold cuda_channels(v.channels) elements, zero beyond v.channels: value v of image i begins at
//   element  v.offset * capacity + i * v.height * v.width * cuda_channels(v.channels).
// - Prediction runs level by level too, all operations of a level at once. The caller runs the levels of
//   opaque operations, which have no other operations, and no value is `shared`.
// - The host's share is done once: schedule_plan_cuda makes a launch plan of the tables, plain bytes of which
//   the caller puts a copy on the device. It holds no addresses, and is good for as many images as it was
//   made for, or fewer.

inline int64_t cuda_channels(int64_t channels) { return (channels + 7) / 8 * 8; }

int64_t schedule_packed_bytes_cuda(const Operation& operation, const Value& input, Dtype storage);

// The arguments of schedule_pack_cpu for one weight; weight and packed lie on the device.
struct CudaPacking {
  const Operation* operation;
  const Value* input;
  const float* weight;
  int64_t weight_stride[4];
  void* packed;
};

// Packs all of these weights, in few launches. With `tf32`, which has to be that of the launch plan, fp32
// weights of products are rounded to TF32.
Status schedule_pack_cuda(const CudaPacking* packings, int64_t count, Dtype storage, bool tf32, int device,
                          void* stream);

// What a launch plan is for.
enum class Purpose : int32_t {
  prediction = 0,
  calibration = 1,
  // Prediction by blocks of threads that each take `images` images at a time through all operations, in the
  // order of their levels, with the arena in shared memory. There, values begin at multiples of
  // resident_alignment, and no others begin before the next multiple behind them; no operation is opaque; the
  // input of convolutions (but depthwise ones) and linear operations has no norm and no activation. An output
  // may lie in the very place of a value of its size that is added to it, or that Kind::combine or gate read.
  resident = 2,
  // Prediction as above by levels, but the chip copies by itself what warpgroups multiply, where it can: by
  // tensor maps, which schedule_maps_cuda makes. It gives the same bits.
  mapped = 3,
};
constexpr int64_t resident_alignment = 64;  // elements

// Bytes of a launch plan; 0 where the tables are not valid.
int64_t schedule_plan_bytes_cuda(const ScheduleTables& tables, Dtype storage, int64_t images,
                                 Purpose purpose);

// A tile of a convolution's or linear operation's output, which a block of threads computes: positions and
// channels. Warpgroups, of four warps, multiply bf16 alone, and only on some GPUs: Hopper.
struct CudaConvTile {
  int32_t rows, columns;
  bool warpgroups;
};
constexpr CudaConvTile cuda_conv_tiles[] = {
    {128, 16, false}, {128, 32, false}, {128, 64, false}, {128, 128, false}, {64, 32, false},
    {64, 64, false},  {64, 128, false}, {128, 64, true},  {128, 128, true},  {256, 128, true},
};
constexpr int cuda_conv_tile_count = sizeof cuda_conv_tiles / sizeof *cuda_conv_tiles;

// The number of the usual tile for so many output channels.
int schedule_usual_tile_cuda(int64_t channels);

// Returns whether this build has code for warpgroups that the device runs; and whether it has some for those
// to which the chip copies by tensor maps.
bool schedule_has_warpgroups_cuda(int device);
bool schedule_has_tensor_maps_cuda(int device);

// `tf32`: products of fp32 values are rounded to TF32 and run on tensor cores. plan: where the launch
// plan is written, 8-byte aligned.
Status schedule_plan_cuda(const ScheduleTables& tables, Dtype storage, bool tf32, int64_t images,
                          Purpose purpose, void* plan);

struct CudaNeeds {
  int64_t arena_bytes, scratch_bytes, levels;
  int64_t resident_bytes;  // of a block's shared memory, of which the arena is a part; 0 for other purposes
  int64_t map_bytes;       // of the tensor maps; 0 for other purposes, and where no operation has any
};
CudaNeeds schedule_needs_cuda(const void* plan);

// Writes the tensor maps of a plan, 64-byte aligned, to the host: plain bytes of which the caller puts a copy
// on the device, 64-byte aligned, too. They are good for this arena and for the weights of the tables, for as
// long as these stay where they are. Where the driver makes none, it is a device_error.
Status schedule_maps_cuda(const ScheduleTables& tables, const void* plan, const void* arena, int device,
                          void* maps);

struct CudaPass {
  const void* plan;                 // on the host
  void* device_plan;                // the same bytes on the device, in which kernels count
  const void* images;               // [count, channels, height, width], fp32 or uint8
  int64_t count;                    // of images; at most the launch plan's
  int64_t first_level, last_level;  // both included
  void* arena;                      // these two 64-byte aligned, as large as schedule_needs_cuda says
  void* scratch;
  float* logits;  // [leaves, logit_images, classes], of which images 0 .. count are written; prediction
  int64_t logit_images;  // only
  int device;
  void* stream;
  const void* maps;  // of this plan and arena, on the device; null where it needs none
};

// Queues the pass, and returns.
Status schedule_run_cuda(const ScheduleTables& tables, const CudaPass& pass);

// The same for a launch plan whose purpose is `resident`, and any number of images. Levels, arena and scratch
// are not looked at. It gives the same bits as schedule_run_cuda does for the same operations.
Status schedule_run_resident_cuda(const ScheduleTables& tables, const CudaPass& pass);

// The logits of a pass, and where their scores go. A row of logits with NaN, or whose label is no class, has
// never_right and the loss NaN.
struct CudaTally {
  int64_t networks, images, classes;
  const float* logits;    // [networks, images, classes]
  const int64_t* labels;  // [1 + images]: the place of the first image's scores, then the label of each
  int64_t capacity;       // images that these two have room for:
  int32_t* class_ranks;   // [networks, capacity], how many classes are before the right one
  double* losses;         // [networks, capacity], cross-entropy
};
constexpr int32_t never_right = 1 << 30;

// Queues the scoring of logits, in one launch, and returns. Of equal logits, the first class comes first.
// Scores of a network do not depend on the others. With `early`, a pass is queued right before: scoring may
// then begin before it has ended.
Status schedule_tally_cuda(const CudaTally& tally, bool early, int device, void* stream);

}  // namespace lasfast
