// Dense convolutions on bf16 cells by AMX tiles; part of schedule_kernels.cpp.
//
// A tile of inputs is 16 neighbouring cells by 32 values, read where they lie; a tile of weights is 32 values
// by 16 output channels; a step multiplies them and adds to 16 x 16 sums in fp32. Four such sums are worked
// on together, of four strips of cells, or of fewer strips and more output channels where there are not so
// many. All taps of 32 input channels come one after the other, so that the cells they share are still near.
//
// Tiles are multiplied by a unit of its own. Meanwhile vector instructions finish what was summed before,
// and fill the cells that are read next, in portions, one after each step. Cells of the following band are
// among them: they lie in a second place, and bands follow one another across images.

namespace {

constexpr int tile_cells = 16, tile_sums = 256, sums_together = 4;
constexpr int64_t most_pitch = 20480;  // of weights that are near enough to be read for two strips at a time

// Some rows of outputs of a group of images, and the cells they are computed from.
struct Band {
  ItemArgs a;  // of these images
  Bf16* cells;
  int64_t y0, rows;
  int64_t padded, filled;  // rows of cells: all, and those that are filled
};

// Multiplies strips by `channels` times 16 output channels, whose weights are `pitch` elements apart, into
// sums [strips][channels][16][16]. between() is called after each step.
template <int strips, int channels, class F>
LASFAST_INLINE void multiply_tiles(const Strip* strip, const Cells& cells, const Taps& whole,
                                   const Taps& last, const Bf16* weight, int64_t pitch, float* sums,
                                   F between) {
  constexpr int count = strips * channels;
  static_assert(count <= sums_together && (strips == 1 || channels == 1 || count == 4), "fits eight tiles");
  const int64_t row = cells.size * int64_t{sizeof(Bf16)};
  _tile_zero(0);
  if (count > 1) _tile_zero(1);
  if (count > 2) _tile_zero(2);
  if (count > 3) _tile_zero(3);
  for (int64_t k = 0; k < cells.chunks; ++k) {
    const Taps& taps = k + 1 < cells.chunks ? whole : last;
    for (int64_t t = 0; t < taps.count; ++t) {
      const int64_t shift = taps.shift[t] + k * cells.plane;
      _tile_loadd(6, weight, 64);
      _tile_loadd(4, strip[0].cells + shift, row);
      _tile_dpbf16ps(0, 4, 6);
      if (channels == 1) {
        if (count > 1) {
          _tile_loadd(5, strip[1].cells + shift, row);
          _tile_dpbf16ps(1, 5, 6);
        }
        if (count > 2) {
          _tile_loadd(7, strip[2].cells + shift, row);
          _tile_dpbf16ps(2, 7, 6);
        }
        if (count > 3) {
          _tile_loadd(4, strip[3].cells + shift, row);
          _tile_dpbf16ps(3, 4, 6);
        }
      } else if (strips == 1) {
        _tile_loadd(5, weight + pitch, 64);
        _tile_dpbf16ps(1, 4, 5);
        if (count > 2) {
          _tile_loadd(7, weight + 2 * pitch, 64);
          _tile_dpbf16ps(2, 4, 7);
        }
        if (count > 3) {
          _tile_loadd(6, weight + 3 * pitch, 64);
          _tile_dpbf16ps(3, 4, 6);
        }
      } else {
        _tile_loadd(7, weight + pitch, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, strip[1].cells + shift, row);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      weight += tile_depth * tile_cells;
      between();
    }
  }
  _tile_stored(0, sums, 64);
  if (count > 1) _tile_stored(1, sums + tile_sums, 64);
  if (count > 2) _tile_stored(2, sums + 2 * tile_sums, 64);
  if (count > 3) _tile_stored(3, sums + 3 * tile_sums, 64);
}

template <class U>
class TileConvolution {
 public:
  explicit TileConvolution(const ItemArgs& a)
      : item_(folded(a)),
        cells_(item_),
        finish_(item_),
        whole_(item_, 1),
        last_(item_, item_.cells.columns),
        phase_channels_(item_.phases > 0 ? item_.out_channels / (item_.phases * item_.phases) : 0) {}

  void run() {
    configure_tiles();
    // A third band, since sums of the one before the last may still wait for this one's first steps.
    Band bands[3];
    Bf16* const cells = static_cast<Bf16*>(item_.cell_scratch);
    bands[0].a = item_;
    bands[0].a.images = at_most(item_.images, item_.cells.group);
    open(bands[0], 0);
    bands[0].cells = cells;
    int64_t images = bands[0].a.images;  // of this band and all before
    bool more = true;
    for (int64_t i = 0; more; ++i) {
      now_ = &bands[i % 3];
      next_ = &bands[(i + 1) % 3];
      next_->cells = cells + (i + 1) % 2 * item_.cells.room;
      more = follow(*now_, *next_, images);
      if (!more) next_ = nullptr;
      multiply_band();
    }
    _tile_release();
    while (done_.next < done_.count) finish_one();
  }

 private:
  // Where a cell is one position, images one after another count as one image of as many rows.
  static ItemArgs folded(const ItemArgs& a) {
    ItemArgs item = a;
    if (a.kernel > 1 || a.stride > 1 || a.flatten) return item;
    item.in_height *= a.images;
    item.out_height *= a.images;
    item.images = 1;
    return item;
  }

  void open(Band& band, int64_t y0) const {
    band.y0 = y0;
    band.rows = at_most(item_.out_height - y0, item_.cells.band);
    band.padded = (band.rows - 1) * item_.stride + item_.kernel;
    band.filled = 0;
  }

  // Sets up the band after `now`, if there is one.
  bool follow(const Band& now, Band& next, int64_t& images) const {
    next.a = now.a;
    if (now.y0 + now.rows < item_.out_height) {
      open(next, now.y0 + now.rows);
      return true;
    }
    if (images == item_.images) return false;
    const int64_t in = now.a.images * item_.in_height * item_.in_width * item_.in_channels;
    const int64_t out = now.a.images * item_.out_height * item_.out_width;
    next.a.input = static_cast<const Bf16*>(now.a.input) + in;
    if (now.a.other) next.a.other = static_cast<const Bf16*>(now.a.other) + out * item_.other_channels;
    next.a.output = static_cast<U*>(now.a.output) + out * item_.out_channels;
    next.a.images = at_most(item_.images - images, item_.cells.group);
    images += next.a.images;
    open(next, 0);
    return true;
  }

  void fill(Band& band, int64_t last) const {
    cells_.fill(static_cast<const Bf16*>(band.a.input), band.a.images, band.y0, band.filled, last,
                band.cells);
    band.filled = last;
  }

  // Finishes one strip, of two tiles of channels where there are so many.
  void finish_one() {
    const int i = done_.next, tiles = done_.channels - i % done_.channels > 1 ? 2 : 1;
    finish_.run(*done_.a, sums_[1 - which_] + i * tile_sums, done_.strips[i / done_.channels],
                done_.c + i % done_.channels * tile_cells, tiles);
    done_.next += tiles;
  }

  void between() {
    if (done_.next < done_.count)
      finish_one();
    else if (now_->filled < now_->padded) {
      if (now_->filled < reach_) fill(*now_, now_->filled + 1);
    } else if (next_ && next_->filled < next_->padded)
      fill(*next_, next_->filled + 1);
  }

  template <int strips, int channels>
  void multiply(const Bf16* weight, int64_t pitch) {
    multiply_tiles<strips, channels>(strips_, item_.cells, whole_, last_, weight, pitch, sums_[which_],
                                     [this] { between(); });
  }

  // Multiplies all strips that wait by `channels` times 16 output channels from c on.
  void flush(int64_t c, int channels, const Bf16* weight, int64_t pitch) {
    switch (channels == 1 ? waiting_ : 4 * waiting_ + channels) {
      case 1:
        multiply<1, 1>(weight, pitch);
        break;
      case 2:
        multiply<2, 1>(weight, pitch);
        break;
      case 3:
        multiply<3, 1>(weight, pitch);
        break;
      case 4:
        multiply<4, 1>(weight, pitch);
        break;
      case 6:
        multiply<1, 2>(weight, pitch);
        break;
      case 7:
        multiply<1, 3>(weight, pitch);
        break;
      case 8:
        multiply<1, 4>(weight, pitch);
        break;
      default:
        multiply<2, 2>(weight, pitch);
    }
    while (done_.next < done_.count) finish_one();
    if (c == 0) finish_.prefetch(now_->a, strips_[waiting_ - 1]);
    done_.a = &now_->a;
    for (int i = 0; i < waiting_; ++i) done_.strips[i] = strips_[i];
    done_.c = c;
    done_.channels = channels;
    done_.count = waiting_ * channels;
    done_.next = 0;
    which_ = 1 - which_;
    waiting_ = 0;
  }

  void multiply_band() {
    const Cells& e = item_.cells;
    const bool row_by_row = item_.kernel > 1;
    const int64_t row_cells = item_.out_width * e.group;
    const int64_t strips = row_by_row ? now_->rows * ((row_cells + tile_cells - 1) / tile_cells)
                                      : (now_->rows * row_cells + tile_cells - 1) / tile_cells;
    const Bf16* weight = static_cast<const Bf16*>(item_.weight);
    for (int64_t c = 0; c < item_.out_channels;) {
      int64_t end = item_.out_channels;
      if (item_.phases > 0) {
        const int64_t phase = c / phase_channels_;
        whole_ = last_ = taps_of(item_, phase);
        end = (phase + 1) * phase_channels_;
      }
      const int64_t pitch = (whole_.count * (e.chunks - 1) + last_.count) * (tile_depth * tile_cells);
      const int64_t left = (end - c + tile_cells - 1) / tile_cells;
      const int channels = static_cast<int>(at_most(left, strips == 1 ? 4 : pitch <= most_pitch ? 2 : 1));
      const int together = sums_together / channels;
      int64_t y = 0;
      for_rows(now_->a, now_->cells, now_->y0, now_->rows,
               [&](const Bf16* row, int64_t position, int64_t length, bool start) {
                 for (int64_t cell = 0; cell < length; cell += tile_cells) {
                   const int64_t count = at_most(length - cell, tile_cells);
                   if (now_->filled < now_->padded) {
                     const int64_t out_row = row_by_row ? y : (cell + count - 1) / row_cells;
                     const int64_t needed = out_row * item_.stride + item_.kernel;
                     if (now_->filled < needed) fill(*now_, needed);
                     reach_ = at_most(needed + sums_together * item_.stride, now_->padded);
                   }
                   strips_[waiting_++] = {row + cell * e.size, position, cell, count,
                                          start && cell == 0 && now_->a.input == item_.input};
                   if (waiting_ == together) flush(c, channels, weight, pitch);
                 }
                 ++y;
               });
      if (waiting_ > 0) flush(c, channels, weight, pitch);
      weight += channels * pitch;
      c += channels * tile_cells;
    }
  }

  const ItemArgs item_;
  const TileCells cells_;
  const LineFinish<U, W, tile_sums> finish_;
  Taps whole_, last_;  // of the output channels at hand
  const int64_t phase_channels_;
  alignas(64) float sums_[2][sums_together * tile_sums];
  Band *now_ = nullptr, *next_ = nullptr;
  Strip strips_[sums_together];
  int waiting_ = 0, which_ = 0;
  int64_t reach_ = 0;  // rows of cells that are worth filling by now
  struct {
    const ItemArgs* a;
    Strip strips[sums_together];
    int64_t c;
    int channels, count, next;  // next: which sum is to be finished
  } done_ = {};
};

template <class U>
void tile_convolution(const ItemArgs& a) {
  TileConvolution<U>(a).run();
}

}  // namespace
