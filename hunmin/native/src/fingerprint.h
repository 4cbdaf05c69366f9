// Whether memory still holds what it held: a change of any bit changes the fingerprint of its tensor.
#pragma once
#include "common.h"

namespace {

// Lane by lane acc = acc * odd + word, which maps different words to different sums; the lanes are then mixed in the same way.
inline uint64_t fingerprint(const char* from, int64_t size) {
  constexpr uint32_t odd = 0x9e3779b1u;
  u32x16 acc[4] = {};
  int64_t at = 0;
  for (; at + 256 <= size; at += 256)
    for (int k = 0; k < 4; k++) acc[k] = acc[k] * odd + load<u32x16>(from + at + 64 * k);
  uint64_t out = uint64_t(size);
  for (int k = 0; k < 4; k++)
    for (int i = 0; i < 16; i++) out = out * 0x9e3779b97f4a7c15ull + acc[k][i];
  for (; at < size; at++) out = out * 0x9e3779b97f4a7c15ull + uint8_t(from[at]);
  return out;
}

}  // namespace

API(fingerprint)(const void* const* parts, const int64_t* sizes, int32_t count, uint64_t* out) {
#pragma omp parallel for schedule(dynamic)
  for (int i = 0; i < count; i++) out[i] = fingerprint((const char*)parts[i], sizes[i]);
}
