// Configures all eight tiles of AMX at their full size: 16 rows of 64 bytes.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64, "as the processor reads it");

inline void configure_tiles() {
  TileConfig config = {};
  config.palette = 1;
  for (int i = 0; i < 8; ++i) config.bytes[i] = 64, config.rows[i] = 16;
  __asm__ volatile("" : : "r"(&config) : "memory");  // GCC takes only the first bytes to be read
  _tile_loadconfig(&config);
}

}  // namespace
