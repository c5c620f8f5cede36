// Statistics of a channel from those of the items that a batch is cut into.
#pragma once

#include <algorithm>
#include <cstdint>

namespace lasfast {

struct Moments {
  double mean, variance;  // biased
};

struct PartialStatistics {
  const float* partial;  // [items, 2, channels]: mean, and sum of squared deviations
  int64_t channels, items, each, images, positions;  // `each`: images of an item, but for the last

  // Chan's formula over all items, in order, in double.
  Moments merged(int64_t c) const {
    double mean = 0, deviations = 0, count = 0;
    for (int64_t i = 0; i < items; ++i) {
      const double n =
          static_cast<double>(positions) * static_cast<double>(std::min(each, images - i * each));
      const double delta = partial[2 * i * channels + c] - mean;
      count += n;
      mean += delta * (n / count);
      deviations += partial[(2 * i + 1) * channels + c] + delta * delta * (n * (count - n) / count);
    }
    return {mean, deviations / count};
  }
};

}  // namespace lasfast
