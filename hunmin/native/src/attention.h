// Attention of a few queries over keys and values in pages (FlashAttention-2, Dao 2023, section 3.1, on a CPU): a page of 32 tokens at a
// time, with a running maximum and sum for every query. Keys stand transposed, so that a vector holds one dimension of sixteen tokens.
#pragma once
#include "acts.h"

namespace {

constexpr int PAGE = 32, QUERIES = 32, BLOCK = 8;  // tokens; queries at once; rows at once
constexpr float LOWEST = -1e30f;

struct Norm {
  const float *weight, *bias;
  float eps;
  int32_t kind;  // 0: none, 1: layer, 2: rms
};

struct Site {  // an attention
  Matrix q, k, v, o;
  Norm q_norm, k_norm;
  const float *cos, *sin;  // (positions, turned / 2)
  const float* bias;       // (heads, far): added to the scores by distance; null: none
  int32_t heads, kv_heads, dim, turned, window, far;  // window 0: all
  float scale, softcap;                               // softcap 0: none
};

struct Pool {  // for every layer keys (pages, kv_heads, dim, 32) and values (pages, kv_heads, 32, dim)
  void *const *keys, *const *values;
  const int32_t *table, *lengths;  // (rows, width): pages of a row; (rows): tokens before the new one
  int32_t width, kind;             // F32 or BF16

  size_t page(const Site& site, int row, int group, int number) const {
    return (size_t(table[size_t(row) * width + number]) * site.kv_heads + group) * PAGE * site.dim;
  }
};

// Rows that one task looks after: those of one text, one after another, or with one memory.
struct Block {
  int32_t first, count;
};

// What a thread works in; `dim` numbers for each query.
struct Desk {
  float *q, *out, *weights;  // (QUERIES, dim), (QUERIES, dim), (QUERIES, PAGE)
  float top[QUERIES], total[QUERIES];
  uint32_t* pairs;  // (QUERIES, dim / 2): q as pairs of bfloat16

  static size_t size(int dim) { return size_t(QUERIES) * (3 * dim + PAGE); }
  Desk(float* memory, int dim)
      : q(memory), out(q + QUERIES * dim), weights(out + QUERIES * dim), pairs((uint32_t*)(weights + QUERIES * PAGE)) {}
};

// Scores of N queries with the tokens of a page: keys (dim, 32).
template <int N>
inline void scores(const float* keys, const Desk& desk, int from, int dim, f32x16 (*out)[2]) {
  for (int j = 0; j < N; j++) out[j][0] = out[j][1] = f32x16{};
  for (int d = 0; d < dim; d++) {
    const f32x16 low = load<f32x16>(keys + d * PAGE), high = load<f32x16>(keys + d * PAGE + 16);
    for (int j = 0; j < N; j++) {
      const f32x16 q = splat(desk.q[(from + j) * dim + d]);
      out[j][0] = fma(q, low, out[j][0]);
      out[j][1] = fma(q, high, out[j][1]);
    }
  }
}

template <int N>
inline void scores(const bf16* keys, const Desk& desk, int from, int dim, f32x16 (*out)[2]) {
  for (int j = 0; j < N; j++) out[j][0] = out[j][1] = f32x16{};
  int d = 0;
#if defined(__AVX512BF16__)
  alignas(64) uint16_t order[2][32];  // two rows of 32 tokens as pairs: tokens 0 to 15, and 16 to 31
  for (int i = 0; i < 32; i++) order[0][i] = i / 2 + i % 2 * 32, order[1][i] = 16 + i / 2 + i % 2 * 32;
  const __m512i low = _mm512_load_si512(order[0]), high = _mm512_load_si512(order[1]);
  for (; d + 2 <= dim; d += 2) {
    const __m512i one = _mm512_loadu_si512(keys + d * PAGE), two = _mm512_loadu_si512(keys + (d + 1) * PAGE);
    const __m512bh a = (__m512bh)_mm512_permutex2var_epi16(one, low, two), b = (__m512bh)_mm512_permutex2var_epi16(one, high, two);
    for (int j = 0; j < N; j++) {
      const __m512bh q = (__m512bh)_mm512_set1_epi32(desk.pairs[(from + j) * (dim / 2) + d / 2]);
      out[j][0] = (f32x16)_mm512_dpbf16_ps((__m512)out[j][0], a, q);
      out[j][1] = (f32x16)_mm512_dpbf16_ps((__m512)out[j][1], b, q);
    }
  }
#endif
  for (; d < dim; d++) {
    const f32x16 low = load_bf16(keys + d * PAGE), high = load_bf16(keys + d * PAGE + 16);
    for (int j = 0; j < N; j++) {
      const f32x16 q = splat(desk.q[(from + j) * dim + d]);
      out[j][0] = fma(q, low, out[j][0]);
      out[j][1] = fma(q, high, out[j][1]);
    }
  }
}

inline float wide(float x) { return x; }
inline float wide(bf16 x) { return from_bf16(x); }

// out = factor * out + the weighted values of tokens `lo` to `hi` of a page, values (32, dim), for N queries.
template <int N, class T>
inline void gather(const T* values, const Desk& desk, int from, int dim, int lo, int hi, const float* factor) {
  int c = 0;
  for (; c + 32 <= dim; c += 32) {
    f32x16 acc[N][2];
    for (int j = 0; j < N; j++)
      for (int k = 0; k < 2; k++) acc[j][k] = load<f32x16>(desk.out + (from + j) * dim + c + 16 * k) * factor[j];
    for (int t = lo; t < hi; t++) {
      const f32x16 a = read(values + t * dim + c), b = read(values + t * dim + c + 16);
      for (int j = 0; j < N; j++) {
        const f32x16 w = splat(desk.weights[(from + j) * PAGE + t]);
        acc[j][0] = fma(w, a, acc[j][0]);
        acc[j][1] = fma(w, b, acc[j][1]);
      }
    }
    for (int j = 0; j < N; j++)
      for (int k = 0; k < 2; k++) write(desk.out + (from + j) * dim + c + 16 * k, acc[j][k]);
  }
  for (; c < dim; c++)
    for (int j = 0; j < N; j++) {
      float total = desk.out[(from + j) * dim + c] * factor[j];
      for (int t = lo; t < hi; t++) total = std::fma(desk.weights[(from + j) * PAGE + t], wide(values[t * dim + c]), total);
      desk.out[(from + j) * dim + c] = total;
    }
}

struct View {  // of a query: which tokens it sees
  int32_t first, end, head;
};

// One page for N queries. Tokens that a query does not see get no weight; a page without any leaves it as it is.
template <int N, class T>
inline void look(const Site& site, const T* keys, const T* values, Desk& desk, const View* views, int from, int start) {
  f32x16 s[N][2];
  float factor[N];
  scores<N>(keys, desk, from, site.dim, s);
  int lowest = PAGE, highest = 0;
  const i32x16 count = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (int j = 0; j < N; j++) {
    const View& view = views[from + j];
    const int lo = std::max(0, view.first - start), hi = std::min(PAGE, view.end - start);
    factor[j] = 1;
    float* weights = desk.weights + (from + j) * PAGE;
    if (lo >= hi) {
      std::memset(weights, 0, sizeof(float) * PAGE);
      continue;
    }
    lowest = std::min(lowest, lo), highest = std::max(highest, hi);
    for (int k = 0; k < 2; k++) {
      s[j][k] = s[j][k] * site.scale;
      if (site.bias)
        for (int i = 0; i < 16; i++) {
          const int distance = std::min(std::max(view.end - 1 - start - 16 * k - i, 0), site.far - 1);
          s[j][k][i] += site.bias[size_t(view.head) * site.far + distance];
        }
      if (site.softcap > 0) s[j][k] = site.softcap * activate<TANH>(s[j][k] / site.softcap);
      const i32x16 at = count + 16 * k;
      s[j][k] = (at >= lo) & (at < hi) ? s[j][k] : splat(LOWEST);
    }
    const float top = std::max(desk.top[from + j], greatest(larger(s[j][0], s[j][1])));
    factor[j] = exp1(desk.top[from + j] - top);
    float total = 0;
    for (int k = 0; k < 2; k++) {
      const i32x16 at = count + 16 * k;
      const f32x16 p = (at >= lo) & (at < hi) ? exp16(s[j][k] - top) : f32x16{};
      write(weights + 16 * k, p);
      total += sum(p);
    }
    desk.total[from + j] = desk.total[from + j] * factor[j] + total;
    desk.top[from + j] = top;
  }
  if (lowest < highest) gather<N>(values, desk, from, site.dim, lowest, highest, factor);
}

// Queries stand in `desk.q`; their results are left in `desk.out`. All look at the pages of `row`.
template <class T>
inline void attend(const Site& site, const Pool& pool, int store_of, int row, int group, Desk& desk, const View* views, int queries) {
  int first = views[0].first, end = 0;
  for (int i = 0; i < queries; i++) {
    first = std::min(first, views[i].first), end = std::max(end, views[i].end);
    desk.top[i] = LOWEST, desk.total[i] = 0;
    std::memset(desk.out + i * site.dim, 0, sizeof(float) * site.dim);
    for (int d = 0; d + 2 <= site.dim; d += 2)
      desk.pairs[i * (site.dim / 2) + d / 2] = to_bf16(desk.q[i * site.dim + d]) | uint32_t(to_bf16(desk.q[i * site.dim + d + 1])) << 16;
  }
  for (int number = first / PAGE; number * PAGE < end; number++) {
    const size_t at = pool.page(site, row, group, number);
    const T *keys = (const T*)pool.keys[store_of] + at, *values = (const T*)pool.values[store_of] + at;
    int i = 0;
    for (; i + 4 <= queries; i += 4) look<4>(site, keys, values, desk, views, i, number * PAGE);
    for (; i < queries; i++) look<1>(site, keys, values, desk, views, i, number * PAGE);
  }
  for (int i = 0; i < queries; i++)
    for (int d = 0; d < site.dim; d++) desk.out[i * site.dim + d] /= desk.total[i];
}

}  // namespace
