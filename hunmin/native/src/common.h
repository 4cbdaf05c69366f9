// What every kernel shares: number formats, exp and tanh that compilers vectorize, names that carry the level.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(_OPENMP)
#include <omp.h>
#endif

#define PASTE(a, b, c) a##b##_##c
#define NAME(level, name) PASTE(hm_, name, level)
#define API(name) extern "C" __attribute__((visibility("default"))) void NAME_(LEVEL, name)
#define NAME_(level, name) NAME(level, name)

namespace {

using bf16 = uint16_t;  // the upper half of a float
using f16 = uint16_t;   // IEEE half precision

inline float from_bf16(bf16 x) {
  uint32_t bits = uint32_t(x) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

// Rounds to nearest, ties to even, as PyTorch does. NaN stays NaN.
inline bf16 to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return bf16(bits >> 16 | 64);
  return bf16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float from_f16(f16 x) {
#if defined(__F16C__)
  return _cvtsh_ss(x);
#else
  uint32_t sign = uint32_t(x & 0x8000) << 16, rest = x & 0x7fff, bits = 0;
  float out;
  if (rest >= 0x7c00) bits = 0x7f800000 | (rest & 0x3ff) << 13;  // infinity, NaN
  else if (rest >= 0x400) bits = (rest << 13) + (112u << 23);
  else {  // zero and subnormal
    out = float(rest) * 5.9604644775390625e-8f;
    std::memcpy(&bits, &out, 4);
  }
  bits |= sign;
  std::memcpy(&out, &bits, 4);
  return out;
#endif
}

// e^x to about 2 ulp (Cody & Waite reduction, degree 6): without calls and branches, so that loops over it are vectorized.
inline float fast_exp(float x) {
  x = std::min(std::max(x, -87.3f), 88.3f);
  float n = std::nearbyint(x * 1.44269504f), r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t bits = (int32_t(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, 4);
  return p * scale;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }
inline float fast_tanh(float x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

inline int thread_count() {
#if defined(_OPENMP)
  return omp_get_max_threads();
#else
  return 1;
#endif
}

}  // namespace
