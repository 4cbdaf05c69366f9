// Activations of sixteen numbers at a time.
#pragma once
#include "matmul.h"

namespace {

enum Act : int32_t { GELU = 0, GELU_TANH, QUICK_GELU, RELU, SILU, SIGMOID, TANH };

inline f32x16 sigmoid16(f32x16 x) { return 1.0f / (1.0f + exp16(-x)); }

// x Phi(x), with erfc as Abramowitz & Stegun 7.1.26 have it: to 1.5e-7.
inline f32x16 gelu16(f32x16 x) {
  const f32x16 z = (x < 0.0f ? -x : x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * z);
  f32x16 p = t * 1.061405429f - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const f32x16 half = p * t * exp16(-z * z) * x * 0.5f;
  return x < 0.0f ? half : x - half;
}

template <int act>
inline f32x16 activate(f32x16 x) {
  switch (act) {
    case GELU: return gelu16(x);
    case GELU_TANH: return x * sigmoid16(1.5957691216f * (x + 0.044715f * x * x * x));
    case QUICK_GELU: return x * sigmoid16(1.702f * x);
    case RELU: return x < 0.0f ? f32x16{} : x;
    case SILU: return x * sigmoid16(x);
    case SIGMOID: return sigmoid16(x);
    default: return 2.0f * sigmoid16(2.0f * x) - 1.0f;
  }
}

}  // namespace
