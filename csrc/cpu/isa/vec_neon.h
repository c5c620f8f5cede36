// Four floats with NEON, which every 64-bit ARM processor has; with the BF16 conversions where a file is
// compiled for these.
#pragma once

#include <arm_neon.h>

#include "../vec.h"

#define LASFAST_VEC_NEON

namespace {

struct Vec {
  static constexpr int width = 4;
  float32x4_t v;

  LASFAST_INLINE static Vec zero() { return set(0.f); }
  LASFAST_INLINE static Vec set(float x) { return {vdupq_n_f32(x)}; }
  LASFAST_INLINE static Vec broadcast(const float* p) { return {vld1q_dup_f32(p)}; }
  LASFAST_INLINE static Vec load(const float* p) { return {vld1q_f32(p)}; }
  LASFAST_INLINE static Vec load_partial(const float* p, int n) {
    if (n >= width) return load(p);
    float32x4_t r = vdupq_n_f32(0.f);
    if (n >= 2) r = vcombine_f32(vld1_f32(p), vget_low_f32(r));
    if (n == 3) r = vld1q_lane_f32(p + 2, r, 2);
    if (n == 1) r = vld1q_lane_f32(p, r, 0);
    return {r};
  }
  LASFAST_INLINE static Vec widen(uint16x4_t bits) {
    const uint16x4_t zero = vdup_n_u16(0);
    return {vreinterpretq_f32_u16(vzip1q_u16(vcombine_u16(zero, zero), vcombine_u16(bits, zero)))};
  }
  LASFAST_INLINE static uint16x4_t load_bits(const lasfast::Bf16* p) {
    return vld1_u16(reinterpret_cast<const uint16_t*>(p));
  }
  LASFAST_INLINE static uint16x4_t load_bits(const lasfast::Bf16* p, int n) {
    const uint16_t* from = reinterpret_cast<const uint16_t*>(p);
    if (n >= width) return vld1_u16(from);
    uint16x4_t bits = vdup_n_u16(0);
    if (n > 0) bits = vld1_lane_u16(from, bits, 0);
    if (n > 1) bits = vld1_lane_u16(from + 1, bits, 1);
    if (n > 2) bits = vld1_lane_u16(from + 2, bits, 2);
    return bits;
  }
  LASFAST_INLINE static Vec load(const lasfast::Bf16* p) { return widen(load_bits(p)); }
  LASFAST_INLINE static Vec load_partial(const lasfast::Bf16* p, int n) { return widen(load_bits(p, n)); }
  LASFAST_INLINE void store(float* p) const { vst1q_f32(p, v); }
  LASFAST_INLINE void store_partial(float* p, int n) const {
    if (n >= width) return store(p);
    if (n >= 2) vst1_f32(p, vget_low_f32(v));
    if (n == 3) vst1q_lane_f32(p + 2, v, 2);
    if (n == 1) vst1q_lane_f32(p, v, 0);
  }
  LASFAST_INLINE uint16x4_t rounded() const {
#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
    return vreinterpret_u16_bf16(vcvt_bf16_f32(v));
#else
    const uint32x4_t bits = vreinterpretq_u32_f32(v), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint16x4_t even = vaddhn_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff));
    const uint16x4_t nan = vorr_u16(vshrn_n_u32(bits, 16), vdup_n_u16(0x40));
    return vbsl_u16(vmovn_u32(vceqq_f32(v, v)), even, nan);
#endif
  }
  LASFAST_INLINE void store(lasfast::Bf16* p) const { vst1_u16(reinterpret_cast<uint16_t*>(p), rounded()); }
  LASFAST_INLINE void store_partial(lasfast::Bf16* p, int n) const {
    if (n >= width) return store(p);
    uint16_t* to = reinterpret_cast<uint16_t*>(p);
    const uint16x4_t bits = rounded();
    if (n > 0) vst1_lane_u16(to, bits, 0);
    if (n > 1) vst1_lane_u16(to + 1, bits, 1);
    if (n > 2) vst1_lane_u16(to + 2, bits, 2);
  }
  LASFAST_INLINE static Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
  LASFAST_INLINE static Vec add(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
  LASFAST_INLINE static Vec sub(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
  LASFAST_INLINE static Vec mul(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
  LASFAST_INLINE static Vec div(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
  LASFAST_INLINE float sum() const { return vaddvq_f32(v); }
  LASFAST_INLINE static Vec max(Vec a, Vec b) { return {vmaxq_f32(a.v, b.v)}; }
  LASFAST_INLINE static Vec min(Vec a, Vec b) { return {vminq_f32(a.v, b.v)}; }
  LASFAST_INLINE static Vec nan_or(Vec a, Vec b) { return {vbslq_f32(vceqq_f32(a.v, a.v), b.v, a.v)}; }
  LASFAST_INLINE static Vec select_above(Vec a, float x, Vec b, Vec c) {
    return {vbslq_f32(vcgtq_f32(a.v, vdupq_n_f32(x)), b.v, c.v)};
  }
  LASFAST_INLINE static Vec zero_outside(Vec a, Vec x, Vec low, Vec high) {
    const uint32x4_t outside = vorrq_u32(vcleq_f32(x.v, low.v), vcgeq_f32(x.v, high.v));
    return {vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a.v), outside))};
  }
  LASFAST_INLINE static Vec gather(const float* p, const int32_t* indices) {
    float32x4_t r = vld1q_dup_f32(p + indices[0]);
    r = vld1q_lane_f32(p + indices[1], r, 1);
    r = vld1q_lane_f32(p + indices[2], r, 2);
    return {vld1q_lane_f32(p + indices[3], r, 3)};
  }
  using Lanes = uint8x16_t;  // the bytes of each lane
  LASFAST_INLINE static Lanes lanes(const int32_t* indices) {
    const uint32x4_t first = vmulq_n_u32(vreinterpretq_u32_s32(vld1q_s32(indices)), 0x04040404);
    return vreinterpretq_u8_u32(vaddq_u32(first, vdupq_n_u32(0x03020100)));
  }
  LASFAST_INLINE static Vec permute(Vec a, Lanes l) {
    return {vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(a.v), l))};
  }
  LASFAST_INLINE static Vec add_exponent(Vec a, Vec t) {
    const uint32x4_t exponent = vshlq_n_u32(vreinterpretq_u32_f32(t.v), 23);
    return {vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(a.v), exponent))};
  }
};

}  // namespace
