// What every entry point of lasfast's native code returns. No exceptions cross these borders.
#pragma once

namespace lasfast {

enum class Code : int {
  ok = 0,
  invalid_argument,  // the caller's mistake; `what` says which
  unsupported,       // valid, but not by this build or on this machine
  device_error,      // the CUDA runtime refused; `detail` is its cudaError_t
};

struct Status {
  Code code = Code::ok;
  int detail = 0;
  const char* what = "";  // a string literal, never freed

  bool ok() const { return code == Code::ok; }
};

inline Status invalid(const char* what) { return {Code::invalid_argument, 0, what}; }
inline Status unsupported(const char* what) { return {Code::unsupported, 0, what}; }

// `error`: the CUDA runtime's number, 0 for none.
inline Status launched(int error) {
  if (error == 0) return {};
  return {Code::device_error, error, "CUDA launch failed"};
}

}  // namespace lasfast
