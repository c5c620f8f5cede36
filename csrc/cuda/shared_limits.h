// How much shared memory a kernel may be launched with.
//
// The runtime keeps this limit for each kernel on each device, not for each launch: a thread that set it to
// what its own launch takes would lower it under the launch of another. So it is raised once, to all that a
// block of the kernel may have on the device.
#pragma once

#include <cstdint>
#include <mutex>
#include <set>
#include <utility>

namespace lasfast::device {

constexpr int64_t default_shared_bytes = 48 << 10;  // the limit of a kernel for which it was not raised

// `Runtime` has functions that return its error number, 0 for none: current_device(&device),
// most_shared_bytes(kernel, device, &bytes), set_shared_limit(kernel, bytes). Any number of threads may call
// raise().
template <typename Runtime>
class SharedLimits {
 public:
  // Raises the limit of a kernel on the current device, unless that was done before.
  int raise(const void* kernel) {
    const std::lock_guard<std::mutex> guard(lock_);
    int device = 0, bytes = 0;
    if (const int error = Runtime::current_device(&device)) return error;
    if (raised_.count({kernel, device})) return 0;
    if (const int error = Runtime::most_shared_bytes(kernel, device, &bytes)) return error;
    if (const int error = Runtime::set_shared_limit(kernel, bytes)) return error;
    raised_.insert({kernel, device});
    return 0;
  }

 private:
  std::mutex lock_;
  std::set<std::pair<const void*, int>> raised_;
};

}  // namespace lasfast::device
