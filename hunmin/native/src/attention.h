// Attention of a few queries over keys and values in pages (FlashAttention-2, Dao 2023, section 3.1, on a CPU): a page of 32 tokens at a
// time, with a running maximum and sum for every query. Keys stand transposed, so that a vector holds one dimension of sixteen tokens.
#pragma once
#include "acts.h"
#include "norm.h"

namespace {

constexpr int PAGE = 32, QUERIES = 32, BLOCK = 8;  // tokens; queries at once; rows at once
constexpr float LOWEST = -1e30f, UNSEEN = -2e30f;  // of scores, before any; of a token that a query does not see

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
  float *q, *out, *weights;  // (QUERIES, dim), (QUERIES, dim), (QUERIES, PAGE) in the kind of the values
  float top[QUERIES], total[QUERIES];
  bf16* halves;  // (QUERIES, dim): q as bfloat16

  static size_t size(int dim) { return size_t(QUERIES) * (3 * dim + PAGE); }
  Desk(float* memory, int dim)
      : q(memory), out(q + QUERIES * dim), weights(out + QUERIES * dim), halves((bf16*)(weights + QUERIES * PAGE)) {}
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

#if defined(__AVX512BF16__)
// Two rows of 32 numbers as pairs of a column: columns 0 to 15, and 16 to 31.
inline void pair_up(const bf16* first, const bf16* second, __m512bh& low, __m512bh& high) {
  const __m512i a = _mm512_loadu_si512(first), b = _mm512_loadu_si512(second);
  const __m512i count = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i order = _mm512_or_si512(_mm512_slli_epi32(count, 16), count) | _mm512_set1_epi32(32 << 16);
  low = (__m512bh)_mm512_permutex2var_epi16(a, order, b);
  high = (__m512bh)_mm512_permutex2var_epi16(a, _mm512_add_epi16(order, _mm512_set1_epi16(16)), b);
}
#endif

template <int N>
inline void scores(const bf16* keys, const Desk& desk, int from, int dim, f32x16 (*out)[2]) {
  for (int j = 0; j < N; j++) out[j][0] = out[j][1] = f32x16{};
  int d = 0;
#if defined(__AVX512BF16__)
  for (; d + 2 <= dim; d += 2) {
    __m512bh a, b;
    pair_up(keys + d * PAGE, keys + (d + 1) * PAGE, a, b);
    for (int j = 0; j < N; j++) {
      const __m512bh q = (__m512bh)_mm512_set1_epi32(load<int32_t>(desk.halves + (from + j) * dim + d));
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

// Two sums of values (32, dim), columns `c` and `c + 16` on: those of tokens `lo` to `hi`, weighted.
template <int N>
inline void weigh(const float* values, const float* weights, int dim, int c, int lo, int hi, f32x16 (*acc)[2]) {
  for (int t = lo; t < hi; t++) {
    const f32x16 a = read(values + t * dim + c), b = read(values + t * dim + c + 16);
    for (int j = 0; j < N; j++) {
      const f32x16 w = splat(weights[j * PAGE + t]);
      acc[j][0] = fma(w, a, acc[j][0]);
      acc[j][1] = fma(w, b, acc[j][1]);
    }
  }
}

template <int N>
inline void weigh(const bf16* values, const bf16* weights, int dim, int c, int lo, int hi, f32x16 (*acc)[2]) {
#if defined(__AVX512BF16__)
  for (int t = lo & ~1; t < hi; t += 2) {  // outside, weights are zero and values may be anything: another row stands in
    __m512bh a, b;
    pair_up(values + std::max(t, lo) * dim + c, values + std::min(t + 1, hi - 1) * dim + c, a, b);
    for (int j = 0; j < N; j++) {
      const __m512bh w = (__m512bh)_mm512_set1_epi32(load<int32_t>(weights + j * PAGE + t));
      acc[j][0] = (f32x16)_mm512_dpbf16_ps((__m512)acc[j][0], a, w);
      acc[j][1] = (f32x16)_mm512_dpbf16_ps((__m512)acc[j][1], b, w);
    }
  }
#else
  for (int t = lo; t < hi; t++) {
    const f32x16 a = read(values + t * dim + c), b = read(values + t * dim + c + 16);
    for (int j = 0; j < N; j++) {
      const f32x16 w = splat(from_bf16(weights[j * PAGE + t]));
      acc[j][0] = fma(w, a, acc[j][0]);
      acc[j][1] = fma(w, b, acc[j][1]);
    }
  }
#endif
}

// out = factor * out + the weighted values of tokens `lo` to `hi` of a page, for N queries.
template <int N, class T>
inline void gather(const T* values, const T* weights, float* out, int dim, int lo, int hi, const float* factor) {
  int c = 0;
  for (; c + 32 <= dim; c += 32) {
    f32x16 acc[N][2];
    for (int j = 0; j < N; j++)
      for (int k = 0; k < 2; k++) acc[j][k] = read(out + j * dim + c + 16 * k) * factor[j];
    weigh<N>(values, weights, dim, c, lo, hi, acc);
    for (int j = 0; j < N; j++)
      for (int k = 0; k < 2; k++) write(out + j * dim + c + 16 * k, acc[j][k]);
  }
  for (; c < dim; c++)
    for (int j = 0; j < N; j++) {
      float total = out[j * dim + c] * factor[j];
      for (int t = lo; t < hi; t++) total = std::fma(wide(weights[j * PAGE + t]), wide(values[t * dim + c]), total);
      out[j * dim + c] = total;
    }
}

struct View {  // of a query: which tokens it sees
  int32_t first, end, head;
};

// One page for N queries. Tokens that a query does not see get no weight; a page without any leaves it as it is.
template <int N, class T>
inline void look(const Site& site, const T* keys, const T* values, Desk& desk, const View* views, int from, int start) {
  f32x16 s[N][2], change = {};
  float tops[N];
  T* weights = (T*)desk.weights + from * PAGE;
  scores<N>(keys, desk, from, site.dim, s);
  int lowest = PAGE, highest = 0;
  const i32x16 count = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (int j = 0; j < N; j++) {
    const View& view = views[from + j];
    const int lo = std::max(0, view.first - start), hi = std::min(PAGE, view.end - start);
    if (lo < hi) lowest = std::min(lowest, lo), highest = std::max(highest, hi);
    for (int k = 0; k < 2; k++) {
      s[j][k] = s[j][k] * site.scale;
      if (site.bias)
        for (int i = 0; i < 16; i++) {
          const int distance = std::min(std::max(view.end - 1 - start - 16 * k - i, 0), site.far - 1);
          s[j][k][i] += site.bias[size_t(view.head) * site.far + distance];
        }
      if (site.softcap > 0) s[j][k] = site.softcap * activate<TANH>(s[j][k] / site.softcap);
      const i32x16 at = count + 16 * k;
      s[j][k] = (at >= lo) & (at < hi) ? s[j][k] : splat(UNSEEN);
    }
    tops[j] = std::max(desk.top[from + j], greatest(larger(s[j][0], s[j][1])));
    change[j] = desk.top[from + j] - tops[j];
    desk.top[from + j] = tops[j];
  }
  if (lowest >= highest) return;
  change = exp16(change);
  float factor[N];
  for (int j = 0; j < N; j++) {
    f32x16 p[2];
    for (int k = 0; k < 2; k++) {
      p[k] = s[j][k] == UNSEEN ? f32x16{} : exp16(s[j][k] - tops[j]);
      write(weights + j * PAGE + 16 * k, p[k]);
    }
    factor[j] = change[j];
    desk.total[from + j] = desk.total[from + j] * factor[j] + sum(p[0] + p[1]);
  }
  gather<N>(values, weights, desk.out + from * site.dim, site.dim, lowest, highest, factor);
}

// Queries stand in `desk.q`; their results are left in `desk.out`. All look at the pages of `row`.
template <class T>
inline void attend(const Site& site, const Pool& pool, int store_of, int row, int group, Desk& desk, const View* views, int queries) {
  int first = views[0].first, end = 0;
  for (int i = 0; i < queries; i++) {
    first = std::min(first, views[i].first), end = std::max(end, views[i].end);
    desk.top[i] = LOWEST, desk.total[i] = 0;
    std::memset(desk.out + i * site.dim, 0, sizeof(float) * site.dim);
    if (sizeof(T) == 2) to_bf16(desk.q + i * site.dim, desk.halves + i * site.dim, site.dim);
  }
  for (int number = first / PAGE; number * PAGE < end; number++) {
    const size_t at = pool.page(site, row, group, number);
    const T *keys = (const T*)pool.keys[store_of] + at, *values = (const T*)pool.values[store_of] + at;
    for (int i = 0; i < queries;) {
      const int n = std::min(queries - i, 8);
      switch (n) {
#define CASE(N) \
  case N: look<N>(site, keys, values, desk, views, i, number * PAGE); i += N; break;
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(8)
#undef CASE
        default: look<4>(site, keys, values, desk, views, i, number * PAGE); i += 4;
      }
    }
  }
  for (int i = 0; i < queries; i++)
    for (int d = 0; d < site.dim; d++) desk.out[i * site.dim + d] /= desk.total[i];
}

}  // namespace
