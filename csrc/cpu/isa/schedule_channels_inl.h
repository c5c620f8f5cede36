// Gates and arrangements of channels; part of schedule_kernels.cpp.

namespace {

template <class T, class U>
void gate(const ItemArgs& a) {
  const T* input = static_cast<const T*>(a.input);
  const T* other = static_cast<const T*>(a.other);
  float* factors = static_cast<float*>(a.cell_scratch);
  for (int64_t c = 0; c < a.other_channels; c += W) {
    const int n = static_cast<int>(at_most(a.other_channels - c, W));
    Transform(a.with, c, n)(load_n(other + c, n)).store(factors + c);
  }
  ItemArgs product = a;
  product.other = nullptr;  // nothing to add
  for_outputs<T, U>(product, [&](int64_t p, int64_t c, int n, const Transform& in) {
    return Vec::mul(in(load_n(input + p * a.in_channels + c, n)), Vec::load(factors + c));
  });
}

// The sources of a few positions are laid side by side as fp32, from where any order can be gathered.
template <class T, class U>
void arrange(const ItemArgs& a) {
  const T* input = static_cast<const T*>(a.input);
  const T* other = static_cast<const T*>(a.other);
  const int64_t pitch = a.cells.size;
  float* rows = static_cast<float*>(a.cell_scratch);
  int32_t* indices = reinterpret_cast<int32_t*>(rows + run_length * pitch + 16);
  const int64_t each = (a.in_channels + a.other_channels) / a.groups;
  const int64_t padded = (a.out_channels + W - 1) / W * W;
  for (int64_t c = 0; c < padded; ++c) {
    const int64_t k = a.first + at_most(c, a.out_channels - 1);
    indices[c] = static_cast<int32_t>(k % a.groups * each + k / a.groups);
  }
  ItemArgs second = a, result = a;
  second.in = a.with;
  second.in_channels = a.other_channels;
  result.other = nullptr;  // nothing to add
  float acc[run_length * W];
  const int64_t positions = a.out_height * a.out_width;
  for (int64_t p = 0; p < positions; p += run_length) {
    const int64_t count = at_most(positions - p, run_length);
    fill_positions(a, input + p * a.in_channels, a.in_channels, rows, pitch, count, 0, a.in_channels);
    if (other)
      fill_positions(second, other + p * a.other_channels, a.other_channels, rows + a.in_channels, pitch,
                     count, 0, a.other_channels);
    for (int64_t c = 0; c < a.out_channels; c += W) {
      for (int64_t q = 0; q < count; ++q) {
        const float* row = rows + q * pitch;
        const Vec v = a.groups == 1 ? Vec::load(row + a.first + c) : Vec::gather(row, indices + c);
        v.store(acc + q * W);
      }
      finish<T, U>(result, acc, W, p, 0, count, c, p == 0);
    }
  }
}

}  // namespace
