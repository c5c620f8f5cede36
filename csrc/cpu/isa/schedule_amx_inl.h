// Dense convolutions on bf16 cells by AMX tiles; part of schedule_inl.h.
//
// A tile of inputs is 16 neighbouring cells by 32 values, read where they lie; a tile of weights is 32 values
// by 16 output channels; a step multiplies them and adds to 16 x 16 sums in fp32. Four such sums, of the same
// channels, are worked on together: the steps' weights then pass through the first-level cache once for 64
// outputs. All taps of 32 input channels come one after the other, so that the cells they share are still
// near. While tiles multiply, vector instructions finish what was summed before.

namespace {

constexpr int tile_cells = 16, tile_depth = 32, tile_sums = 256;

struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};

// Sixteen cells of one row of outputs.
struct Strip {
  const Bf16* cells;
  int64_t position, cell, count;
  bool start;
};

// sums: [count strips][16][16]. between() is called after each step.
template <int count, class F>
LASFAST_INLINE void multiply_tiles(const Strip* strips, int64_t pitch, const int64_t* taps, int64_t tap_count,
                                   int64_t chunks, int64_t plane, const Bf16* weight, float* sums,
                                   F between) {
  _tile_zero(0);
  if (count > 1) _tile_zero(1);
  if (count > 2) _tile_zero(2);
  if (count > 3) _tile_zero(3);
  for (int64_t k = 0; k < chunks; ++k)
    for (int64_t t = 0; t < tap_count; ++t) {
      const int64_t shift = taps[t] + k * plane;
      _tile_loadd(6, weight, 64);
      _tile_loadd(4, strips[0].cells + shift, pitch);
      _tile_dpbf16ps(0, 4, 6);
      if (count > 1) {
        _tile_loadd(5, strips[1].cells + shift, pitch);
        _tile_dpbf16ps(1, 5, 6);
      }
      if (count > 2) {
        _tile_loadd(7, strips[2].cells + shift, pitch);
        _tile_dpbf16ps(2, 7, 6);
      }
      if (count > 3) {
        _tile_loadd(4, strips[3].cells + shift, pitch);
        _tile_dpbf16ps(3, 4, 6);
      }
      weight += tile_depth * tile_cells;
      between();
    }
  _tile_stored(0, sums, 64);
  if (count > 1) _tile_stored(1, sums + tile_sums, 64);
  if (count > 2) _tile_stored(2, sums + 2 * tile_sums, 64);
  if (count > 3) _tile_stored(3, sums + 3 * tile_sums, 64);
}

// The whole window of each output, from rows that are padded first.
void gather_cells(const ItemArgs& a, int64_t y0, int64_t rows, Bf16* cells) {
  const int64_t k = a.kernel, s = a.stride, channels = a.in_channels, size = a.cells.size;
  const int64_t cols = (a.out_width - 1) * s + k, pitch = cols * channels;
  const int64_t copied = at_most(a.in_width, cols - a.padding) * channels;
  const Bf16* input = static_cast<const Bf16*>(a.input);
  Bf16* padded = static_cast<Bf16*>(a.gather_scratch);
  for (int64_t r = 0; r < (rows - 1) * s + k; ++r) {
    Bf16* row = padded + r * pitch;
    const int64_t y = y0 * s + r - a.padding;
    __builtin_memset(row, 0, pitch * sizeof(Bf16));
    if (y < 0 || y >= a.in_height || copied <= 0) continue;
    const Bf16* from = input + y * a.in_width * channels;
    row += a.padding * channels;
    if (!a.in.scale && a.in.activation == 0)
      __builtin_memcpy(row, from, copied * sizeof(Bf16));
    else
      fill_positions(a, from, channels, row, channels, static_cast<Bf16*>(nullptr), copied / channels, false);
  }
  // Whole vectors are copied, too far each time; the next copy overwrites that.
  const int64_t run = k * channels, used = k * run;
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < a.out_width; ++x) {
      const Bf16* from = padded + y * s * pitch + x * s * channels;
      Bf16* to = cells + (y * a.out_width + x) * size;
      for (int64_t r = 0; r < k; ++r)
        for (int64_t i = 0; i < run; i += 16)
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + r * run + i),
                              _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + r * pitch + i)));
      if (used < size)
        _mm512_mask_storeu_epi16(to + size - tile_depth, ~0u << (used - (size - tile_depth)),
                                 _mm512_setzero_si512());
    }
}

template <class U>
void tile_convolution(const ItemArgs& a) {
  static_assert(sizeof(TileConfig) == 64, "as the processor reads it");
  const Cells& e = a.cells;
  const bool gathered = e.mode == CellMode::gathered, paired = e.mode == CellMode::paired;
  int64_t taps[max_kernel * max_kernel], tap_count = 0;
  const int64_t kernel = gathered ? 1 : a.kernel, columns = paired ? (kernel + 1) / 2 : kernel;
  for (int64_t r = 0; r < kernel; ++r)
    for (int64_t i = 0; i < columns; ++i) {
      const int64_t x = paired ? at_most(2 * i, kernel - 2) : i, s = a.stride;
      taps[tap_count++] =
          ((((r % s) * e.rows + r / s) * e.phases + x % s) * e.cols + x / s) * e.group * e.size;
    }
  const int64_t chunks = e.chunks, steps = tap_count * chunks;

  TileConfig config = {};
  config.palette = 1;
  for (int i = 0; i < 8; ++i) config.bytes[i] = 64, config.rows[i] = 16;
  _tile_loadconfig(&config);

  alignas(64) float sums[2][4 * tile_sums];
  struct {
    Strip strips[4];
    int64_t c;
    int count, next;  // strips, and which is to be finished
  } done = {};
  int which = 0;
  const auto finish_one = [&] {
    const Strip& strip = done.strips[done.next];
    finish<Bf16, U>(a, sums[1 - which] + done.next * tile_sums, tile_cells, strip.position, strip.cell,
                    strip.count, done.c, strip.start);
    ++done.next;
  };
  const auto between = [&] {
    if (done.next < done.count) finish_one();
  };

  Bf16* cells = static_cast<Bf16*>(a.cell_scratch);
  for (int64_t y0 = 0; y0 < a.out_height; y0 += e.band) {
    const int64_t rows = at_most(a.out_height - y0, e.band);
    const bool row_by_row = !gathered && a.kernel > 1;
    int64_t filled = 0;  // padded rows
    if (gathered)
      gather_cells(a, y0, rows, cells);
    else if (!row_by_row)
      fill_cells<Bf16>(a, y0, 0, (rows - 1) * a.stride + 1, cells, true);
    const Bf16* weight = static_cast<const Bf16*>(a.weight);
    for (int64_t c = 0; c < a.out_channels; c += tile_cells) {
      Strip strips[4];
      int waiting = 0;
      const auto flush = [&] {
        float* to = sums[which];
        if (waiting == 4)
          multiply_tiles<4>(strips, e.size * 2, taps, tap_count, chunks, e.plane, weight, to, between);
        else if (waiting == 3)
          multiply_tiles<3>(strips, e.size * 2, taps, tap_count, chunks, e.plane, weight, to, between);
        else if (waiting == 2)
          multiply_tiles<2>(strips, e.size * 2, taps, tap_count, chunks, e.plane, weight, to, between);
        else
          multiply_tiles<1>(strips, e.size * 2, taps, tap_count, chunks, e.plane, weight, to, between);
        while (done.next < done.count) finish_one();
        for (int i = 0; i < waiting; ++i) done.strips[i] = strips[i];
        done.c = c, done.count = waiting, done.next = 0;
        which = 1 - which;
        waiting = 0;
      };
      int64_t y = 0;
      for_rows(a, cells, y0, rows, [&](const Bf16* row, int64_t position, int64_t length, bool start) {
        const int64_t needed = row_by_row ? y++ * a.stride + a.kernel : 0;
        if (filled < needed) {  // just before they are read, so that they are in the first-level cache
          fill_cells<Bf16>(a, y0, filled, needed, cells, true);
          filled = needed;
        }
        for (int64_t cell = 0; cell < length; cell += tile_cells) {
          strips[waiting++] = {row + cell * e.size, position, cell, at_most(length - cell, tile_cells),
                               start && cell == 0};
          if (waiting == 4) flush();
        }
      });
      if (waiting > 0) flush();
      weight += steps * (tile_depth * tile_cells);
    }
  }
  _tile_release();
  while (done.next < done.count) finish_one();
}

}  // namespace
