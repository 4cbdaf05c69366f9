// y = x W^T for few rows of x: the weight is read once, in the form in which it is stored, and nothing else is as large.
//
// Quantized weights stand in tiles of 16 rows by 32 columns, so that one vector instruction multiplies four columns of sixteen rows and
// no sum over lanes is needed. Rows of x are quantized to 8 bits by groups of 32 (as llama.cpp does), products are summed as integers.
#pragma once
#include "common.h"

namespace {

// For every lane: acc + the sum of four products of unsigned weights (at most `top`) with the four signed bytes of x.
template <int top>
inline i32x16 dot4(i32x16 acc, u8x64 w, const int8_t* x) {
#if defined(__AVX512VNNI__)
  return (i32x16)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, _mm512_set1_epi32(load<int32_t>(x)));
#elif defined(__AVX2__)
  const __m256i four = _mm256_set1_epi32(load<int32_t>(x)), ones = _mm256_set1_epi16(1);
  for (int half = 0; half < 2; half++) {
    __m256i part = load<__m256i>((const char*)&w + 32 * half), out;
    if (top <= 15) {
      out = _mm256_madd_epi16(_mm256_maddubs_epi16(part, four), ones);
    } else {  // products of two whole bytes would saturate 16 bits: even and odd bytes apart
      const __m256i low = _mm256_set1_epi16(255);
      __m256i even = _mm256_madd_epi16(_mm256_and_si256(part, low), _mm256_srai_epi16(_mm256_slli_epi16(four, 8), 8));
      out = _mm256_add_epi32(even, _mm256_madd_epi16(_mm256_srli_epi16(part, 8), _mm256_srai_epi16(four, 8)));
    }
    __m256i old = load<__m256i>((const char*)&acc + 32 * half);
    out = _mm256_add_epi32(old, out);
    std::memcpy((char*)&acc + 32 * half, &out, 32);
  }
  return acc;
#else
  for (int lane = 0; lane < 16; lane++)
    for (int j = 0; j < 4; j++) acc[lane] += int32_t(w[4 * lane + j]) * x[j];
  return acc;
#endif
}

// Rows of x, and tiles, at once: two sums of each stay in registers.
#if defined(__AVX512F__)
constexpr int MOST = 6, PAIR = 2;
#else
constexpr int MOST = 4, PAIR = 1;
#endif

enum Kind : int32_t { F32 = 0, BF16 = 1, U4 = 2, U8 = 3 };

// A weight (rows, cols). Plain: row after row. Quantized: tiles, numbers d * (code - zero) + m. Mirrors `_Matrix` in matrix.py.
struct Matrix {
  int32_t kind, rows, cols, group, zero, unused;  // group: columns that share d and m; 16, or a multiple of 32
  const void* codes;
  const f16* d;       // (rows / 16, cols / group, 16)
  const f16* m;       // the same, or null
  const float* bias;  // (rows), or null
};

// Rows of x as the kernels want them.
struct Rows {
  int count, width;  // width: a multiple of 32 for quantized weights, zeros at the end
  const float* x;    // (count, width)
  int8_t* q;         // (count, width)
  float* s;          // (count, width / 32): scales of q
  float* sums;       // (count, width / 32): sums of what q stands for
  float* halves;     // (count, width / 16): the same of sixteen columns
  int32_t* ends;     // (count, width / 32): -128 times the sum of q
  bf16* half;        // (count, width)
};

// Columns `first` to `last` of a row x, which are multiples of 32, rounded to 8 bits.
template <class T>
inline void quantize_row(const T* x, const Rows& rows, int row, int first, int last) {
  int8_t* q = rows.q + size_t(row) * rows.width;
  for (int at = first; at < last; at += 32) {
    const f32x16 low = read(x + at), high = read(x + at + 16);
    const float top = greatest(larger(larger(low, -low), larger(high, -high)));
    const float scale = top / 127, inverse = top > 0 ? 127 / top : 0;
    const size_t place = (size_t(row) * rows.width + at) / 32;
    int32_t sums[2];
    for (int half = 0; half < 2; half++) {
      const i32x16 codes = nearest((half ? high : low) * inverse);
      const i8x16 bytes = __builtin_convertvector(codes, i8x16);
      std::memcpy(q + at + 16 * half, &bytes, 16);
      sums[half] = sum(codes);
      rows.halves[2 * place + half] = scale * sums[half];
    }
    rows.s[place] = scale;
    rows.sums[place] = scale * (sums[0] + sums[1]);
    rows.ends[place] = -128 * (sums[0] + sums[1]);
  }
}

// Prepares rows `first` to `last` for weights of `kind`.
inline void prepare(const Rows& rows, int kind, int first, int last) {
  const size_t n = rows.width;
  for (size_t r = first; r < size_t(last); r++) {
    if (kind >= U4) quantize_row(rows.x + r * n, rows, r, 0, rows.width);
    if (kind == BF16) to_bf16(rows.x + r * n, rows.half + r * n, rows.width);
  }
}

constexpr int AHEAD = 1536;  // bytes of codes that are fetched before their turn where few rows leave the memory to set the pace
enum Form { EVEN, GROUPS, HALVES };  // EVEN: codes count from 128, and there are no minima; HALVES: groups of 16 columns

// T tiles with N rows of x: `out` (T, N).
template <int kind, Form form, int T, int N>
inline void tile(const Matrix& w, int t, const Rows& rows, int from, f32x16* out) {
  constexpr int top = kind == U4 ? 15 : 255, sub = form == HALVES ? 16 : 32, bytes = kind == U4 ? 256 : 512;
  const int blocks = w.cols / 32, groups = w.cols / w.group;
  const size_t width = rows.width, n = width / sub, next = size_t(blocks) * bytes;
  const uint8_t* codes = (const uint8_t*)w.codes + t * next;
  const f16 *d = w.d + size_t(t) * groups * 16, *m = w.m ? w.m + size_t(t) * groups * 16 : nullptr;
  const int8_t* x = rows.q + from * width;
  const float *s = rows.s + from * (width / 32), *sums = (form == HALVES ? rows.halves : rows.sums) + from * n;
  const int32_t* ends = rows.ends + from * n;
  f32x16 y[T][N] = {};
  int used = 0;  // columns of the group that d and m stand for
  for (int b = 0; b < blocks; b++, codes += bytes, x += 32, s++, ends++) {
    if (N <= 4)
      for (int k = 0; k < T; k++)
        for (int line = 0; line < bytes; line += 64) __builtin_prefetch(codes + k * next + AHEAD + line);
    for (int part = 0; part < 32 / sub; part++, sums++) {
      i32x16 acc[T][N];
#pragma GCC unroll 6
      for (int j = 0; j < N; j++)
        for (int k = 0; k < T; k++) acc[k][j] = form == EVEN ? i32x16{} + ends[j * n] : i32x16{};
#pragma GCC unroll 8
      for (int c = part * sub / 4; c < (part + 1) * sub / 4; c++) {  // no sum waits for the one before it
        u8x64 v[T];
        for (int k = 0; k < T; k++) {
          v[k] = load<u8x64>(codes + k * next + 64 * (kind == U4 ? c % 4 : c));
          if (kind == U4) v[k] = c < 4 ? v[k] & 15 : v[k] >> 4;
        }
#pragma GCC unroll 6
        for (int j = 0; j < N; j++)
          for (int k = 0; k < T; k++) acc[k][j] = dot4<top>(acc[k][j], v[k], x + j * width + 4 * c);
      }
      for (int k = 0; k < T; k++) {
        const size_t at = size_t(k) * groups * 16;
        const f32x16 scale = load_f16(d + at), least = form == EVEN ? f32x16{} : m ? load_f16(m + at) : scale * float(-w.zero);
#pragma GCC unroll 6
        for (int j = 0; j < N; j++) {
          if (form != EVEN) y[k][j] = fma(least, splat(sums[j * n]), y[k][j]);
          y[k][j] = fma(__builtin_convertvector(acc[k][j], f32x16), scale * s[j * (width / 32)], y[k][j]);
        }
      }
      if ((used += sub) == w.group) used = 0, d += 16, m += m ? 16 : 0;
    }
  }
  for (int k = 0; k < T; k++)
    for (int j = 0; j < N; j++) out[k * N + j] = y[k][j];
}

// Sixteen rows of a plain weight with N rows of x, four at a time.
template <int kind, int N>
inline void plain(const Matrix& w, int t, const Rows& rows, int from, f32x16* out) {
  const size_t n = w.cols, width = rows.width;
  for (int i = 0; i < 16 && 16 * t + i < w.rows; i++) {
    const float* wide = (const float*)w.codes + (16 * t + i) * n;
    const bf16* half = (const bf16*)w.codes + (16 * t + i) * n;
    f32x16 acc[N] = {};
    size_t k = 0;
#if defined(__AVX512BF16__)
    if (kind == BF16)
      for (; k + 32 <= n; k += 32)
        for (int j = 0; j < N; j++)
          acc[j] = (f32x16)_mm512_dpbf16_ps((__m512)acc[j], load<__m512bh>(half + k), load<__m512bh>(rows.half + (from + j) * width + k));
#endif
    for (; k + 16 <= n; k += 16) {
      const f32x16 weight = kind == BF16 ? load_bf16(half + k) : load<f32x16>(wide + k);
      for (int j = 0; j < N; j++) {
        const size_t at = (from + j) * width + k;
        acc[j] = fma(weight, kind == BF16 ? load_bf16(rows.half + at) : load<f32x16>(rows.x + at), acc[j]);
      }
    }
    for (int j = 0; j < N; j++) {
      float total = sum(acc[j]);
      for (size_t rest = k; rest < n; rest++) {
        const size_t at = (from + j) * width + rest;
        total += kind == BF16 ? from_bf16(half[rest]) * from_bf16(rows.half[at]) : wide[rest] * rows.x[at];
      }
      out[j][i] = total;
    }
  }
}

// One function each, whatever is done with the sums.
template <int T, int N>
__attribute__((noinline)) void some(const Matrix& w, int t, const Rows& rows, int from, f32x16* out) {
  if (w.kind == U4) return tile<U4, GROUPS, T, N>(w, t, rows, from, out);
  if (w.kind == U8 && w.group == 16) return tile<U8, HALVES, T, N>(w, t, rows, from, out);
  if (w.kind == U8 && (w.m || w.zero != 128)) return tile<U8, GROUPS, T, N>(w, t, rows, from, out);
  if (w.kind == U8) return tile<U8, EVEN, T, N>(w, t, rows, from, out);
  for (int k = 0; k < T; k++) {
    if (w.kind == F32) plain<F32, N>(w, t + k, rows, from, out + k * N);
    else plain<BF16, N>(w, t + k, rows, from, out + k * N);
  }
}

// T tiles of x W^T + bias for rows `from` to `to`: `take(row, tile, sixteen values)`.
template <int T, class Take>
inline void columns(const Matrix& w, const Rows& rows, int t, int from, int to, const Take& take) {
  float bias[16 * T] = {};
  if (w.bias) std::memcpy(bias, w.bias + 16 * t, sizeof(float) * std::min(16 * T, w.rows - 16 * t));
  for (int passes = (to - from + MOST - 1) / MOST; from < to; passes--) {
    f32x16 out[T * MOST];
    const int n = (to - from + passes - 1) / passes;  // of about one size
    switch (n) {
#define CASE(N) \
  case N: some<T, N <= MOST ? N : 1>(w, t, rows, from, out); break;
      CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#undef CASE
    }
    for (int k = 0; k < T; k++)
      for (int j = 0; j < n; j++) take(from + j, t + k, out[k * n + j] + load<f32x16>(bias + 16 * k));
    from += n;
  }
}

// Tiles `first` to `last`. Some tiles stay in the second cache while blocks of rows pass, which stay in the first while those tiles pass.
// One row reads tile after tile: one stream of memory is faster than two.
template <class Take>
inline void multiply(const Matrix& w, const Rows& rows, int first, int last, const Take& take) {
  const int size = w.kind == F32 ? 4 : w.kind == BF16 ? 2 : 1, block = std::max(1, 16384 / (rows.width * size) / MOST) * MOST;
  const int near = std::max(1, 262144 / (16 * PAIR * rows.width * size)) * PAIR;
  for (; first < last; first += near)
    for (int from = 0; from < rows.count; from += block)
      for (int t = first, end = std::min(last, first + near); t < end;) {
        const int to = std::min(rows.count, from + block);
        if (rows.count > 1 && t + PAIR <= end) columns<PAIR>(w, rows, t, from, to, take), t += PAIR;
        else columns<1>(w, rows, t, from, to, take), t++;
      }
}

// The same into y (count, stride).
inline void multiply(const Matrix& w, const Rows& rows, float* y, size_t stride, int first, int last) {
  multiply(w, rows, first, last, [&](int row, int t, f32x16 values) {
    float* to = y + row * stride + 16 * t;
    if (16 * t + 16 <= w.rows) std::memcpy(to, &values, 64);
    else std::memcpy(to, &values, sizeof(float) * (w.rows - 16 * t));
  });
}

inline int tiles(const Matrix& w) { return (w.rows + 15) / 16; }

// The numbers of one row of a weight, (cols).
inline void numbers(const Matrix& w, int row, float* out) {
  const int t = row / 16, lane = row % 16, groups = w.cols / std::max(1, w.group);
  const uint8_t* codes = (const uint8_t*)w.codes + size_t(t) * 16 * w.cols / (w.kind == U4 ? 2 : 1);
  for (int k = 0; k < w.cols; k++) {
    if (w.kind == F32) out[k] = ((const float*)w.codes)[size_t(row) * w.cols + k];
    else if (w.kind == BF16) out[k] = from_bf16(((const bf16*)w.codes)[size_t(row) * w.cols + k]);
    else {
      const int b = k / 32, c = k % 32, chunk = w.kind == U4 ? c % 16 / 4 : c / 4;
      const uint8_t byte = codes[b * (w.kind == U4 ? 256 : 512) + 64 * chunk + 4 * lane + c % 4];
      const int code = w.kind == U8 ? byte : c < 16 ? byte & 15 : byte >> 4;
      const size_t at = (size_t(t) * groups + k / w.group) * 16 + lane;
      const float d = from_f16(w.d[at]);
      out[k] = d * (w.m ? code : code - w.zero) + (w.m ? from_f16(w.m[at]) : 0);
    }
  }
}

}  // namespace

// y (count, rows) = x W^T + bias. x is (count, width) with width >= cols, padded with zeros to a multiple of 32 where W is quantized.
API(multiply)(const Matrix* w, Rows* rows, float* y) {
#pragma omp parallel
  {
#if defined(_OPENMP)
    const int self = omp_get_thread_num(), all = omp_get_num_threads();
#else
    const int self = 0, all = 1;
#endif
    prepare(*rows, w->kind, rows->count * self / all, rows->count * (self + 1) / all);
#pragma omp barrier
    multiply(*w, *rows, y, w->rows, int(int64_t(tiles(*w)) * self / all), int(int64_t(tiles(*w)) * (self + 1) / all));
  }
}

// The numbers of a quantized weight as bfloat16, (rows, cols): what a matrix product of many rows wants.
API(unpack)(const Matrix* w, bf16* out) {
#pragma omp parallel for schedule(static)
  for (int t = 0; t < tiles(*w); t++) {
    const int per = w->kind == U4 ? 256 : 512, groups = w->cols / w->group, lanes = std::min(16, w->rows - 16 * t);
    for (int at = 0; at < w->cols; at += 16) {
      const uint8_t* codes = (const uint8_t*)w->codes + (size_t(t) * (w->cols / 32) + at / 32) * per;
      const size_t place = (size_t(t) * groups + at / w->group) * 16;
      const f32x16 d = load_f16(w->d + place), m = w->m ? load_f16(w->m + place) : d * float(-w->zero);
      for (int i = 0; i < 16; i += 2) {  // two columns of sixteen rows
        u32x16 word = load<u32x16>(codes + 64 * (i / 4 + (w->kind == U8 ? at % 32 / 4 : 0)));
        if (w->kind == U4) word = (at % 32 ? word >> 4 : word) & 0x0f0f0f0fu;
        u32x16 pair[2];
        for (int k = 0; k < 2; k++) {
          const f32x16 x = fma(__builtin_convertvector(word >> 8 * (i % 4 + k) & 255u, f32x16), d, m);
          pair[k] = (u32x16)x + 0x7fffu + ((u32x16)x >> 16 & 1u);
        }
        const u32x16 both = pair[0] >> 16 | (pair[1] & 0xffff0000u);
        for (int lane = 0; lane < lanes; lane++) {
          const uint32_t bits = both[lane];
          std::memcpy(out + size_t(16 * t + lane) * w->cols + at + i, &bits, 4);
        }
      }
    }
  }
}
