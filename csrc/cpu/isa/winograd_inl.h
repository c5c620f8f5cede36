// What passes by Winograd's algorithm share: the transforms, and how tiles follow one another.
#pragma once

#include "../winograd_points.h"
#include "target.h"

namespace {

// The transforms of one row or column: those of two dimensions are these along each. Those of gradients are
// the transposes of the output's and of the weight's.
template <int side>
struct WinogradTransform;

template <>
struct WinogradTransform<2> {
  LASFAST_INLINE static void input(const Vec (&d)[4], Vec (&t)[4]) {
    t[0] = Vec::sub(d[0], d[2]);
    t[1] = Vec::add(d[1], d[2]);
    t[2] = Vec::sub(d[2], d[1]);
    t[3] = Vec::sub(d[3], d[1]);
  }
  LASFAST_INLINE static void output(const Vec (&m)[4], Vec (&y)[2]) {
    y[0] = Vec::add(m[0], Vec::add(m[1], m[2]));
    y[1] = Vec::add(m[3], Vec::sub(m[1], m[2]));
  }
  LASFAST_INLINE static void grad_output(const Vec (&y)[2], Vec (&m)[4]) {
    m[0] = y[0];
    m[1] = Vec::add(y[0], y[1]);
    m[2] = Vec::sub(y[0], y[1]);
    m[3] = y[1];
  }
  LASFAST_INLINE static void grad_weight(const Vec (&t)[4], Vec (&g)[3]) {
    const Vec half = Vec::set(0.5f), even = Vec::mul(half, Vec::add(t[1], t[2]));
    g[0] = Vec::add(t[0], even);
    g[1] = Vec::mul(half, Vec::sub(t[1], t[2]));
    g[2] = Vec::add(t[3], even);
  }
};

template <>
struct WinogradTransform<4> {
  static constexpr float a = static_cast<float>(lasfast::winograd_near);
  static constexpr float b = static_cast<float>(lasfast::winograd_far);

  LASFAST_INLINE static Vec fma(float factor, Vec x, Vec sum) { return Vec::fma(Vec::set(factor), x, sum); }
  LASFAST_INLINE static Vec two(float f, Vec x, float g, Vec z) {
    return Vec::fma(Vec::set(f), x, Vec::mul(Vec::set(g), z));
  }

  LASFAST_INLINE static void input(const Vec (&d)[6], Vec (&t)[6]) {
    const Vec even_a = fma(-b * b, d[2], d[4]), odd_a = fma(-b * b, d[1], d[3]);
    const Vec even_b = fma(-a * a, d[2], d[4]), odd_b = fma(-a * a, d[1], d[3]);
    t[0] = fma(a * a * b * b, d[0], fma(-a * a - b * b, d[2], d[4]));
    t[1] = fma(a, odd_a, even_a);
    t[2] = fma(-a, odd_a, even_a);
    t[3] = fma(b, odd_b, even_b);
    t[4] = fma(-b, odd_b, even_b);
    t[5] = fma(a * a * b * b, d[1], fma(-a * a - b * b, d[3], d[5]));
  }
  LASFAST_INLINE static void output(const Vec (&m)[6], Vec (&y)[4]) {
    const Vec even_a = Vec::add(m[1], m[2]), odd_a = Vec::sub(m[1], m[2]);
    const Vec even_b = Vec::add(m[3], m[4]), odd_b = Vec::sub(m[3], m[4]);
    y[0] = Vec::add(m[0], Vec::add(even_a, even_b));
    y[1] = two(a, odd_a, b, odd_b);
    y[2] = two(a * a, even_a, b * b, even_b);
    y[3] = fma(a * a * a, odd_a, fma(b * b * b, odd_b, m[5]));
  }
  LASFAST_INLINE static void grad_output(const Vec (&y)[4], Vec (&m)[6]) {
    const Vec even_a = fma(a * a, y[2], y[0]), odd_a = two(a, y[1], a * a * a, y[3]);
    const Vec even_b = fma(b * b, y[2], y[0]), odd_b = two(b, y[1], b * b * b, y[3]);
    m[0] = y[0];
    m[1] = Vec::add(even_a, odd_a);
    m[2] = Vec::sub(even_a, odd_a);
    m[3] = Vec::add(even_b, odd_b);
    m[4] = Vec::sub(even_b, odd_b);
    m[5] = y[3];
  }
  LASFAST_INLINE static void grad_weight(const Vec (&t)[6], Vec (&g)[3]) {
    constexpr float aa = a * a, bb = b * b;
    constexpr float zero = 1 / (aa * bb), near = 1 / (2 * aa * (aa - bb)), far = 1 / (2 * bb * (bb - aa));
    const Vec even_a = Vec::add(t[1], t[2]), odd_a = Vec::sub(t[1], t[2]);
    const Vec even_b = Vec::add(t[3], t[4]), odd_b = Vec::sub(t[3], t[4]);
    g[0] = fma(zero, t[0], two(near, even_a, far, even_b));
    g[1] = two(near * a, odd_a, far * b, odd_b);
    g[2] = fma(near * aa, even_a, fma(far * bb, even_b, t[5]));
  }
};

// Tiles beside each other, the first of which is number `number` of its block.
struct WinogradStrip {
  int64_t image, row, col, tiles, number;
};
constexpr int64_t winograd_strip =
    8;  // tiles of a strip: what is between the steps of a transform stays near

// Calls f(strip) for `count` tiles from `first` on, where images have rows x cols of them.
template <class F>
LASFAST_INLINE void for_strips(int64_t rows, int64_t cols, int64_t first, int64_t count, F f) {
  WinogradStrip s = {first / (rows * cols), first / cols % rows, first % cols, 0, 0};
  while (s.number < count) {
    s.tiles = at_most(at_most(cols - s.col, count - s.number), winograd_strip);
    f(s);
    s.number += s.tiles;
    s.col += s.tiles;
    if (s.col < cols) continue;
    s.col = 0;
    if (++s.row < rows) continue;
    s.row = 0;
    ++s.image;
  }
}

}  // namespace
