// y = x W^T for many rows of x: a panel of W stays in the first cache while blocks of rows pass by, and no sum over lanes is needed.
//
// A word is four bytes of a row: one float or two bfloat16. W stands in panels of PANEL * 16 of its rows, word by word,
// so that one vector holds a word of sixteen rows and meets one word of x that is broadcast. The accumulators fill the registers.
#pragma once
#include "matmul.h"

namespace {

#if defined(__AVX512F__)
constexpr int PANEL = 2, DEEP = 12;  // 24 of 32 registers accumulate
#elif defined(__AVX2__)
constexpr int PANEL = 1, DEEP = 6;  // 12 of 16, two for sixteen lanes
#elif defined(__aarch64__)
constexpr int PANEL = 1, DEEP = 6;  // 24 of 32, four for sixteen lanes
#else
constexpr int PANEL = 1, DEEP = 3;
#endif
constexpr int SPAN = 16 * PANEL;  // rows of W in a panel

inline int up_to(int n, int step) { return (n + step - 1) / step * step; }
inline int per_word(int kind) { return kind == F32 ? 1 : 2; }
inline int bytes_of(int kind) { return 4 / per_word(kind); }
inline int words_of(int cols, int kind) { return (cols + per_word(kind) - 1) / per_word(kind); }

// A weight (rows, cols), packed, or quantized: then `count` matrices in tiles, one below the other. Mirrors `_Product` in encoder.py.
struct Product {
  int32_t kind, rows, cols, count;
  const char* codes;
  const float* bias;    // (rows), filled up with zeros to whole panels
  const Matrix* tiles;  // (count), with biases of their own; columns and rows fill them
};

// Rows of x in the form of a product: `stride` bytes apart, or quantized.
struct Side {
  char* data;
  size_t stride;
  Rows rows;
};

// M rows of x with one panel.
template <int kind, int M>
inline void block(const char* x, size_t stride, const char* w, int words, f32x16 (&out)[M][PANEL]) {
#if defined(__AVX512BF16__)
  if (kind == BF16) {
    __m512 acc[M][PANEL];
#pragma GCC unroll 12
    for (int m = 0; m < M; m++)
      for (int p = 0; p < PANEL; p++) acc[m][p] = _mm512_setzero_ps();
    for (int k = 0; k < words; k++, w += 64 * PANEL) {
      const __m512bh w0 = load<__m512bh>(w), w1 = load<__m512bh>(w + 64 * (PANEL - 1));
#pragma GCC unroll 12
      for (int m = 0; m < M; m++) {
        const __m512bh a = (__m512bh)_mm512_set1_epi32(load<int32_t>(x + m * stride + 4 * k));
        acc[m][0] = _mm512_dpbf16_ps(acc[m][0], a, w0);
        acc[m][PANEL - 1] = _mm512_dpbf16_ps(acc[m][PANEL - 1], a, w1);
      }
    }
#pragma GCC unroll 12
    for (int m = 0; m < M; m++)
      for (int p = 0; p < PANEL; p++) out[m][p] = (f32x16)acc[m][p];
    return;
  }
#endif
  f32x16 acc[M][PANEL] = {};
  for (int k = 0; k < words; k++, w += 64 * PANEL) {
    u32x16 v[PANEL];
#pragma GCC unroll 2
    for (int p = 0; p < PANEL; p++) v[p] = load<u32x16>(w + 64 * p);
#pragma GCC unroll 12
    for (int m = 0; m < M; m++) {
      const uint32_t word = load<uint32_t>(x + m * stride + 4 * k);
      if (kind == BF16) {
#pragma GCC unroll 2
        for (int p = 0; p < PANEL; p++) {
          acc[m][p] += (f32x16)(v[p] << 16) * from_bf16(bf16(word));
          acc[m][p] += (f32x16)(v[p] & 0xffff0000u) * from_bf16(bf16(word >> 16));
        }
      } else {
#pragma GCC unroll 2
        for (int p = 0; p < PANEL; p++) acc[m][p] += (f32x16)v[p] * load<float>(&word);
      }
    }
  }
  for (int m = 0; m < M; m++)
    for (int p = 0; p < PANEL; p++) out[m][p] = acc[m][p];
}

// The same with sums in memory, (M, PANEL): one function each, whatever is done with them.
template <int kind, int M>
__attribute__((noinline)) void sums_of(const char* x, size_t stride, const char* w, int words, f32x16* to) {
  f32x16 out[M][PANEL];
  block<kind, M>(x, stride, w, words, out);
  for (int m = 0; m < M; m++)
    for (int p = 0; p < PANEL; p++) to[m * PANEL + p] = out[m][p];
}

template <int kind>
inline void sums_of(int count, const char* x, size_t stride, const char* w, int words, f32x16* to) {
  switch (count) {
#define CASE(M) \
  case M: return sums_of<kind, M <= DEEP ? M : 1>(x, stride, w, words, to);
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#undef CASE
  }
}

// Calls `take(row, tile, values)` for rows `first` to `last` of x with one panel; a tile is sixteen rows of W.
template <int kind, class Take>
inline void panel_of(const char* x, size_t stride, const char* codes, int words, int first, int last, int panel, const Take& take) {
  const char* w = codes + size_t(panel) * words * 64 * PANEL;
  const int blocks = (last - first + DEEP - 1) / DEEP;
  f32x16 out[DEEP * PANEL];
  for (int b = 0, row = first; b < blocks; b++) {
    const int count = (last - row + blocks - b - 1) / (blocks - b);  // of about one size
    sums_of<kind>(count, x + row * stride, stride, w, words, out);
    for (int m = 0; m < count; m++)
      for (int p = 0; p < PANEL; p++) take(row + m, panel * PANEL + p, out[m * PANEL + p]);
    row += count;
  }
}

// x W^T + bias for `rows` rows of x: `take(row, column, sixteen values)`.
template <int kind, class Take>
inline void product_of(const Product& w, const Side& x, int rows, Team& team, const Take& take) {
  const int words = words_of(w.cols, kind), panels = (w.rows + SPAN - 1) / SPAN, chunk = 8 * DEEP, chunks = (rows + chunk - 1) / chunk;
  const auto whole = [&](int row, int tile, f32x16 y) { take(row, 16 * tile, y + load<f32x16>(w.bias + 16 * tile)); };
  team.share(panels * chunks, [&](int item, int end) {
    for (; item < end; item++) {
      const int first = item % chunks * chunk, last = std::min(rows, first + chunk);
      panel_of<kind>(x.data, x.stride, w.codes, words, first, last, item / chunks, whole);
    }
  });
}

template <class Take>
inline void product(const Product& w, const Side& x, int rows, Team& team, const Take& take) {
  if (w.kind == F32) return product_of<F32>(w, x, rows, team, take);
  if (w.kind == BF16) return product_of<BF16>(w, x, rows, team, take);
  team.share((w.rows / 16 + 1) / 2, [&](int from, int to) {
    for (int part = 0, start = 0; part < w.count; start += tiles(w.tiles[part++])) {
      const int first = std::max(0, 2 * from - start), last = std::min(tiles(w.tiles[part]), 2 * to - start);
      multiply(w.tiles[part], x.rows, first, last, [&](int row, int tile, f32x16 y) { take(row, 16 * (start + tile), y); });
    }
  });
}

}  // namespace

// Bytes of a packed weight (rows, cols).
API(packed_size)(int kind, int rows, int cols, int64_t* out) {
  *out = int64_t(words_of(cols, kind)) * 4 * up_to(rows, SPAN);
}

// Rows of `bytes_of(kind) * cols` bytes, one after another, as panels; `out` is all zeros before.
API(pack)(int kind, int rows, int cols, const char* from, char* out) {
  const int words = words_of(cols, kind), size = bytes_of(kind) * cols;
#pragma omp parallel for schedule(static)
  for (int panel = 0; panel < (rows + SPAN - 1) / SPAN; panel++)
    for (int lane = 0; lane < std::min(SPAN, rows - panel * SPAN); lane++) {
      const char* row = from + (size_t(panel) * SPAN + lane) * size;
      char* to = out + size_t(panel) * words * 64 * PANEL + 4 * lane;
      for (int k = 0; k < words; k++) std::memcpy(to + size_t(k) * 64 * PANEL, row + 4 * k, std::min(4, size - 4 * k));
    }
}
