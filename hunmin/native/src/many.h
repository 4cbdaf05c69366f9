// y = x W^T for many rows of x and plain weights as they are stored: the sums of matmul.h, each in its order, so that a row's result is the
// same to the bit however many rows there are. Four rows of W meet four rows of x in registers, and sums over lanes are made together.
#pragma once
#include "matmul.h"

namespace {

#if defined(__AVX512F__)

// The sums over the lanes of sixteen vectors, each in the order of `sum`: lane 4 * j + i of the result is that of vector 4 * i + j.
inline __attribute__((always_inline)) __m512 sums(const __m512 (&a)[16]) {
  __m512 b[8], c[4], d[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    const __m512 x = a[2 * i], y = a[2 * i + 1];
    b[i] = _mm512_shuffle_f32x4(x, y, 0x44) + _mm512_shuffle_f32x4(x, y, 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const __m512 x = b[2 * i], y = b[2 * i + 1];
    c[i] = _mm512_shuffle_f32x4(x, y, 0x88) + _mm512_shuffle_f32x4(x, y, 0xdd);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; i++) {
    const __m512d x = _mm512_castps_pd(c[2 * i]), y = _mm512_castps_pd(c[2 * i + 1]);
    d[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y)) + _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
  }
  return _mm512_shuffle_ps(d[0], d[1], 0x88) + _mm512_shuffle_ps(d[0], d[1], 0xdd);
}

// Four rows of a plain weight, `w` on, with four rows of x; both of n columns, a multiple of what a vector holds.
template <int kind>
inline __m512 four(const char* w, const char* x, size_t wide, size_t stride, size_t bytes) {
  __m512 acc[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) acc[i] = _mm512_setzero_ps();
  for (size_t k = 0; k < bytes; k += 64) {
    __m512 b[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) b[j] = load<__m512>(x + j * stride + k);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      const __m512 a = load<__m512>(w + i * wide + k);
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) {
#if defined(__AVX512BF16__)
        if (kind == BF16) {
          acc[4 * i + j] = _mm512_dpbf16_ps(acc[4 * i + j], (__m512bh)a, (__m512bh)b[j]);
          continue;
        }
#endif
        acc[4 * i + j] = _mm512_fmadd_ps(a, b[j], acc[4 * i + j]);
      }
    }
  }
  return sums(acc);
}

// Tile t of a plain weight with four rows of x.
template <int kind>
inline void plain_four(const Matrix& w, int t, const Rows& rows, int from, float* y, size_t stride) {
  constexpr size_t size = kind == BF16 ? 2 : 4;
  const size_t wide = w.cols * size, far = rows.width * size;
  const char *codes = (const char*)w.codes + 16 * t * wide, *x = (kind == BF16 ? (const char*)rows.half : (const char*)rows.x) + from * far;
  for (int i = 0; i < 16; i += 4) {
    __m512 out = four<kind>(codes + i * wide, x, wide, far, wide);
    if (w.bias) out += _mm512_broadcast_f32x4(_mm_loadu_ps(w.bias + 16 * t + i));
    _mm_storeu_ps(y + i, _mm512_extractf32x4_ps(out, 0));
    _mm_storeu_ps(y + stride + i, _mm512_extractf32x4_ps(out, 1));
    _mm_storeu_ps(y + 2 * stride + i, _mm512_extractf32x4_ps(out, 2));
    _mm_storeu_ps(y + 3 * stride + i, _mm512_extractf32x4_ps(out, 3));
  }
}

#endif

// Tiles `first` to `last` of y (count, stride) = x W^T + bias, to the bit as `multiply`; column 16 * first of the product is column 0 of y.
// Cached as there: some tiles in the second cache, a block of rows in the first.
inline void multiply_many(const Matrix& w, const Rows& rows, float* y, size_t stride, int first, int last) {
  int t = first;
#if defined(__AVX512F__)
#if defined(__AVX512BF16__)
  const bool halves = w.kind == BF16 && w.cols % 32 == 0;
#else
  const bool halves = false;
#endif
  const int size = w.cols * (halves ? 2 : 4), near = std::max(1, 262144 / (16 * size)), block = std::max(1, 16384 / size / 4) * 4;
  const int whole = rows.count >= 4 && (halves || (w.kind == F32 && w.cols % 16 == 0)) ? std::min(last, w.rows / 16) : first;
  for (; t < whole; t = std::min(whole, t + near))
    for (int begin = 0; begin < rows.count; begin += block)
      for (int tile = t; tile < std::min(whole, t + near); tile++)
        for (int next = begin; next < std::min(rows.count, begin + block); next += 4) {
          const int from = std::min(next, rows.count - 4);  // the last four overlap
          float* to = y + from * stride + 16 * (tile - first);
          if (halves) plain_four<BF16>(w, tile, rows, from, to, stride);
          else plain_four<F32>(w, tile, rows, from, to, stride);
        }
#endif
  if (t < last) multiply(w, rows, y - 16 * first, stride, t, last);
}

}  // namespace
