// Layer norm (Ba et al. 2016) and root mean square norm (Zhang & Sennrich 2019, eq. 4).
#pragma once
#include "common.h"

namespace {

// Mirrored in matrix.py.
struct Norm {
  const float *weight, *bias;
  float eps;
  int32_t kind;  // 0: none, 1: layer, 2: rms
};

inline float dot(const float* a, const float* b, int n) {
  f32x16 acc = {};
  int i = 0;
  for (; i + 16 <= n; i += 16) acc = fma(load<f32x16>(a + i), load<f32x16>(b + i), acc);
  float out = sum(acc);
  for (; i < n; i++) out += a[i] * b[i];
  return out;
}

// x and out may be the same.
inline void normalize(const Norm& norm, const float* x, float* out, int n) {
  if (norm.kind == 0) {
    if (out != x) std::memcpy(out, x, sizeof(float) * n);
    return;
  }
  float mean = 0;
  if (norm.kind == 1) {
    f32x16 acc = {};
    int i = 0;
    for (; i + 16 <= n; i += 16) acc += load<f32x16>(x + i);
    for (mean = sum(acc); i < n; i++) mean += x[i];
    mean /= n;
    for (i = 0; i < n; i++) out[i] = x[i] - mean;
    x = out;
  }
  const float scale = 1 / std::sqrt(dot(x, x, n) / n + norm.eps);
  for (int i = 0; i < n; i++) out[i] = x[i] * scale * norm.weight[i];
  if (norm.bias)
    for (int i = 0; i < n; i++) out[i] += norm.bias[i];
}

}  // namespace
