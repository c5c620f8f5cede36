// Scores the logits of a pass. A row of logits has eight neighbouring threads, which read it in turns, 32
// bytes at a time; sums are in double, and in an order that the number of classes alone decides.
#include "device.cuh"
#include "entry.cuh"
#include "lasfast/round.h"
#include "lasfast/schedule.h"

namespace lasfast {
namespace {

constexpr int threads = 256, lanes = 8, block_rows = threads / lanes;

// What the threads of a row tell each other.
struct Row {
  float most[lanes];  // of their logits
  int32_t before[lanes];
  double sum[lanes];
};

LASFAST_KERNEL(threads, 4)
tally(const CudaTally args) {
  device::wait_for_earlier();
  device::let_next_begin();
  const int lane = device::thread_index() % lanes;
  Row& row = device::shared<Row>()[device::thread_index() / lanes];
  const int64_t number = device::block_index() * block_rows + device::thread_index() / lanes;
  const bool some = number < args.networks * args.images;
  const int64_t network = some ? number / args.images : 0, image = some ? number % args.images : 0;
  const float* const logits = args.logits + (network * args.images + image) * args.classes;
  const int64_t label = args.labels[1 + image];
  const bool known = label >= 0 && label < args.classes;
  const float right = known ? logits[label] : device::infinity() - device::infinity();

  float most = -device::infinity();
  int32_t before = known ? 0 : never_right;
  for (int64_t c = lane; c < args.classes; c += lanes) {
    const float logit = logits[c];
    if (logit > most) most = logit;
    if (logit != logit)
      before = never_right;
    else if (before < never_right && (logit > right || (logit == right && c < label)))
      ++before;
  }
  row.most[lane] = most, row.before[lane] = before;
  device::warp_barrier();
  for (int i = 0; i < lanes; ++i)
    if (row.most[i] > most) most = row.most[i];
  double sum = 0;
  for (int64_t c = lane; c < args.classes; c += lanes)
    sum += device::exp(static_cast<double>(logits[c]) - static_cast<double>(most));
  row.sum[lane] = sum;
  device::warp_barrier();
  if (!some || lane != 0) return;

  const int64_t place = network * args.capacity + args.labels[0] + image;
  int64_t all_before = 0;
  double total = 0;
  for (int i = 0; i < lanes; ++i) {
    all_before += row.before[i];
    total += row.sum[i];
  }
  const double shift = static_cast<double>(most) - static_cast<double>(right);
  args.class_ranks[place] = all_before < never_right ? static_cast<int32_t>(all_before) : never_right;
  args.losses[place] = device::log(total) + shift;
}

}  // namespace

Status schedule_tally_cuda(const CudaTally& args, bool early, int device, void* stream) {
  if (args.networks < 1 || args.images < 1 || args.classes < 1 || args.capacity < args.images)
    return invalid("networks, images and classes must be positive, and the images fit the capacity");
  if (args.classes >= never_right) return unsupported("2^30 classes or more");
  if (!args.logits || !args.labels || !args.class_ranks || !args.losses)
    return invalid("logits, labels or the place of their scores are missing");
  const int64_t blocks = divide_up(args.networks * args.images, block_rows);
  return on_device(device, stream, [&](device::Stream queue) {
    if (blocks > device::max_blocks) return -1;
    return device::launch(tally, blocks, threads, block_rows * int64_t{sizeof(Row)}, queue, args,
                          early && may_launch_early());
  });
}

}  // namespace lasfast
