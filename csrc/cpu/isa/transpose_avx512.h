// Transposes sixteen vectors of sixteen 32-bit values.
#pragma once

#include <immintrin.h>

namespace {

inline void transpose(__m512i* v) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int half = 0; half < 2; ++half) {
      v[i + 2 * half] = _mm512_unpacklo_epi64(t[i + half], t[i + half + 2]);
      v[i + 2 * half + 1] = _mm512_unpackhi_epi64(t[i + half], t[i + half + 2]);
    }
  // Quarters q of v[4 a + b] hold column 4 q + b of rows 4 a .. 4 a + 3.
  for (int b = 0; b < 4; ++b) {
    const __m512i low = _mm512_shuffle_i32x4(v[b], v[4 + b], 0x44);
    const __m512i high = _mm512_shuffle_i32x4(v[b], v[4 + b], 0xee);
    const __m512i low2 = _mm512_shuffle_i32x4(v[8 + b], v[12 + b], 0x44);
    const __m512i high2 = _mm512_shuffle_i32x4(v[8 + b], v[12 + b], 0xee);
    t[b] = _mm512_shuffle_i32x4(low, low2, 0x88);
    t[4 + b] = _mm512_shuffle_i32x4(low, low2, 0xdd);
    t[8 + b] = _mm512_shuffle_i32x4(high, high2, 0x88);
    t[12 + b] = _mm512_shuffle_i32x4(high, high2, 0xdd);
  }
  for (int i = 0; i < 16; ++i) v[i] = t[i];
}

}  // namespace
