// What every kernel shares: number formats, exp and tanh that compilers vectorize, names that carry the level.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <thread>
#include <utility>
#include <vector>
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

// Sixteen lanes; compilers split them where registers are shorter.
typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef uint8_t u8x64 __attribute__((vector_size(64)));
typedef int8_t i8x16 __attribute__((vector_size(16)));

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

template <class T>
inline T load(const void* from) {
  T out;
  std::memcpy(&out, from, sizeof(T));
  return out;
}

inline f32x16 load_f16(const f16* from) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
#else
  f32x16 out;
  for (int i = 0; i < 16; i++) out[i] = from_f16(from[i]);
  return out;
#endif
}

inline f32x16 load_bf16(const bf16* from) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from)), 16);
#elif defined(__AVX2__)
  f32x16 out;
  for (int i = 0; i < 16; i += 8) {
    const __m256i half = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(from + i))), 16);
    std::memcpy((float*)&out + i, &half, 32);
  }
  return out;
#else
  return (f32x16)(__builtin_convertvector(load<u16x16>(from), u32x16) << 16);
#endif
}

inline f32x16 read(const float* from) { return load<f32x16>(from); }
inline f32x16 read(const bf16* from) { return load_bf16(from); }
inline void write(float* to, f32x16 x) { std::memcpy(to, &x, 64); }
inline void write(bf16* to, f32x16 x) {
#if defined(__AVX512BF16__)
  const __m256bh y = _mm512_cvtneps_pbh((__m512)x);
  std::memcpy(to, &y, 32);
#else
  const u32x16 bits = (u32x16)x, up = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  const u16x16 y = __builtin_convertvector((bits & 0x7fffffffu) > 0x7f800000u ? bits >> 16 | 64u : up, u16x16);
  std::memcpy(to, &y, 32);
#endif
}

inline void to_bf16(const float* from, bf16* to, int n) {
  int i = 0;
  for (; i + 16 <= n; i += 16) write(to + i, read(from + i));
  for (; i < n; i++) to[i] = to_bf16(from[i]);
}

inline float sum(f32x16 x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)x);
#else
  typedef float f32x8 __attribute__((vector_size(32)));
  typedef float f32x4 __attribute__((vector_size(16)));
  const f32x8 y = load<f32x8>(&x) + load<f32x8>((float*)&x + 8);
  const f32x4 z = load<f32x4>(&y) + load<f32x4>((float*)&y + 4);
  return (z[0] + z[2]) + (z[1] + z[3]);
#endif
}

inline f32x16 splat(float x) { return f32x16{} + x; }
inline f32x16 larger(f32x16 a, f32x16 b) { return a > b ? a : b; }

inline float greatest(f32x16 x) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)x);
#else
  float out = x[0];
  for (int i = 1; i < 16; i++) out = std::max(out, x[i]);
  return out;
#endif
}

inline int32_t sum(i32x16 x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_epi32((__m512i)x);
#else
  int32_t out = 0;
  for (int i = 0; i < 16; i++) out += x[i];
  return out;
#endif
}

// The nearest whole numbers, ties to even, below 2^22: adding 1.5 * 2^23 leaves no bits for fractions.
inline i32x16 nearest(f32x16 x) { return (i32x16)(x + 12582912.0f) - (i32x16)splat(12582912.0f); }

// a * b + c, rounded once where the processor can; written out where it has to be the same in every instance of a template.
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  for (int i = 0; i < 64; i += 32) {
    const __m256 part = _mm256_fmadd_ps(load<__m256>((char*)&a + i), load<__m256>((char*)&b + i), load<__m256>((char*)&c + i));
    std::memcpy((char*)&c + i, &part, 32);
  }
  return c;
#else
  return a * b + c;
#endif
}

// e^x to about 2 ulp (Cody & Waite reduction, degree 6).
inline f32x16 exp16(f32x16 x) {
  x = x < -87.3f ? f32x16{} - 87.3f : x > 88.3f ? f32x16{} + 88.3f : x;
  const i32x16 whole = __builtin_convertvector(x * 1.44269504f + (x < 0.0f ? f32x16{} - 0.5f : f32x16{} + 0.5f), i32x16);
  const f32x16 n = __builtin_convertvector(whole, f32x16), r = x - n * 0.693359375f + n * 2.12194440e-4f;
  f32x16 p = r * 1.3981999507e-3f + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * (f32x16)((whole + 127) << 23);
}

inline float exp1(float x) { return exp16(splat(x))[0]; }

// Work that the threads of a parallel region share, phase by phase: who comes first takes the next piece, and a phase is over when its
// pieces are done, not when all threads were there. So a thread that the system has taken off its core holds the others up by one piece at
// most, and finds nothing left to do in the phases it missed. A step of a millisecond or two has some three hundred: waiting is looking.
struct alignas(64) Phase {
  std::atomic<int> next{0}, done{0};
};

// A thread of a parallel region.
struct Team {
  static constexpr int PIECES = 4;  // of a phase, for each thread
  int self, all;
  Phase* phase;  // of all phases, the next

  static Team here(std::vector<Phase>& phases) {
#if defined(_OPENMP)
    return {omp_get_thread_num(), omp_get_num_threads(), phases.data()};
#else
    return {0, 1, nullptr};
#endif
  }

  // Calls `work(first, last)` for ranges that together are 0 to n, then waits for the others.
  template <class Work>
  void share(int n, const Work& work) {
    if (all == 1) return work(0, n);
    Phase& now = *phase++;
    const int pieces = std::min(n, all * PIECES);
    int mine = 0;
    for (int i; (i = now.next.fetch_add(1, std::memory_order_relaxed)) < pieces; mine++)
      work(int(int64_t(n) * i / pieces), int(int64_t(n) * (i + 1) / pieces));
    finish(now, mine, pieces);
  }

  // The same with one range for each thread, in their order: for what depends on who did it.
  template <class Work>
  void split(int n, const Work& work) {
    work(int(int64_t(n) * self / all), int(int64_t(n) * (self + 1) / all));
    if (all > 1) finish(*phase++, 1, all);
  }

 private:
  static void finish(Phase& now, int mine, int pieces) {
    if (mine) now.done.fetch_add(mine, std::memory_order_acq_rel);
    for (int looked = 0; now.done.load(std::memory_order_acquire) < pieces; looked++) {
      if (looked > 20000) std::this_thread::yield();
#if defined(__x86_64__)
      else _mm_pause();
#endif
    }
  }
};

}  // namespace
