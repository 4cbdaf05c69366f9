// The largest of many logits and the logarithm of the sum of their exponentials, in one pass over pieces that a cache holds: beams need no
// more of a distribution over a vocabulary. Mirrored by native/choose.py, which has the twin in PyTorch.
#pragma once
#include "common.h"

namespace {

constexpr float LEAST = -3.402823466e38f;
constexpr int SCAN = 256;  // logits of a piece; pieces do not depend on the number of threads, so neither do sums

// What is wanted of each row, and where it goes.
struct Choice {
  int32_t k, count;         // how many of the largest; the number of ids in `never`
  int32_t whole, threads;   // whole: ids that are never chosen count in the sum all the same
  const int32_t* never;     // (count), ascending
  float* values;            // (rows, k): logits, the largest first, of equal ones the lowest id first; all NaN where one is
  int32_t* ids;             // (rows, k)
  float* sums;              // (rows): log of the sum of exponentials; NaN where the largest logit is not finite. Null: not wanted
  float *pieces, *desks;    // (rows, pieces, 2): largest and sum of each; (threads, rows, SCAN)
  float* found;             // (threads, rows, k): the largest of each thread's pieces
  int32_t *places, *tally;  // (threads, rows, k); (threads, rows): how many there are, or -1 for NaN
};

inline float bits(uint32_t x) {
  float out;
  std::memcpy(&out, &x, 4);
  return out;
}
inline float not_a_number() { return bits(0x7fc00000); }

// The k largest so far, in order; of equal ones the first to come.
struct Best {
  float* values;
  int32_t* ids;
  int32_t &count, k;

  void put(float x, int id) {
    int at = count < k ? count++ : k - 1;
    for (; at > 0 && values[at - 1] < x; at--) values[at] = values[at - 1], ids[at] = ids[at - 1];
    values[at] = x, ids[at] = id;
  }
  bool takes(float x) const { return count < k || x > values[count - 1]; }
};

inline void forbid(const Choice& c, float* x, int first, int n) {
  for (const int32_t *i = std::lower_bound(c.never, c.never + c.count, first), *end = c.never + c.count; i < end && *i < first + n; i++)
    x[*i - first] = bits(0xff800000);
}

// Columns `first` to `first + n` of a row; x has room for SCAN.
inline void scan(const Choice& c, float* x, int first, int n, float* piece, Best best) {
  const float none = bits(0xff800000);
  for (int i = n; i % 16; i++) x[i] = none;
  if (!c.whole) forbid(c, x, first, n);
  f32x16 top = splat(LEAST), total = {};
  i32x16 odd = {};  // what remains of a number without its sign is larger for NaN than for infinity
  for (int i = 0; i < n; i += 16) {
    const f32x16 y = load<f32x16>(x + i);
    const i32x16 size = (i32x16)y & 0x7fffffff;
    odd = size > odd ? size : odd;
    top = larger(top, y);
  }
  int32_t most = 0;
  for (int i = 0; i < 16; i++) most = std::max(most, odd[i]);
  if (most > 0x7f800000) best.count = -1;
  if (best.count < 0) return;
  const float largest = greatest(top);
  for (int i = 0; c.sums && i < n; i += 16) total += exp16(load<f32x16>(x + i) - largest);
  piece[0] = largest, piece[1] = sum(total);
  if (c.whole) forbid(c, x, first, n);
  if (best.takes(largest))
    for (int i = 0; i < n; i++)
      if (best.takes(x[i])) best.put(x[i], first + i);
}

// What all threads have found of row r.
inline void merge(const Choice& c, int rows, int r, int pieces) {
  int32_t count = 0;
  float* values = c.values + size_t(r) * c.k;
  int32_t* ids = c.ids + size_t(r) * c.k;
  Best best{values, ids, count, c.k};
  bool odd = false;
  for (int t = 0; t < c.threads; t++) {
    const size_t at = size_t(t) * rows + r;
    odd |= c.tally[at] < 0;
    for (int i = 0; i < c.tally[at] && best.takes(c.found[at * c.k + i]); i++) best.put(c.found[at * c.k + i], c.places[at * c.k + i]);
  }
  if (odd) {
    for (int i = 0; i < c.k; i++) values[i] = not_a_number(), ids[i] = i;
    if (c.sums) c.sums[r] = not_a_number();
    return;
  }
  if (!c.sums) return;
  float top = LEAST, total = 0;
  for (int p = 0; p < pieces; p++) top = std::max(top, c.pieces[(size_t(r) * pieces + p) * 2]);
  for (int p = 0; p < pieces; p++) {
    const float* piece = c.pieces + (size_t(r) * pieces + p) * 2;
    total += piece[1] * exp1(piece[0] - top);
  }
  const bool finite = top > LEAST && top < -LEAST;
  c.sums[r] = finite ? top + std::log(total) : not_a_number();
}

// Chooses among V logits of each of `rows` rows. `write(first, n, to)` gives columns `first` to `first + n` of all rows, SCAN apart.
template <class Write>
inline void choose(const Choice& c, int rows, int V, Team& team, const Write& write) {
  const int pieces = (V + SCAN - 1) / SCAN;
  team.split(pieces, [&](int from, int to) {  // in the order of threads: of equal logits the first of the first thread wins
    const size_t mine = size_t(team.self) * rows;
    float* desk = c.desks + mine * SCAN;
    for (int t = team.self; t < c.threads; t += team.all) std::fill_n(c.tally + size_t(t) * rows, rows, 0);
    for (int p = from; p < to; p++) {
      const int first = p * SCAN, n = std::min(SCAN, V - first);
      write(first, n, desk);
      for (int r = 0; r < rows; r++) {
        const size_t at = mine + r;
        scan(c, desk + size_t(r) * SCAN, first, n, c.pieces + (size_t(r) * pieces + p) * 2,
             {c.found + at * c.k, c.places + at * c.k, c.tally[at], c.k});
      }
    }
  });
  team.share(rows, [&](int first, int last) {
    for (int r = first; r < last; r++) merge(c, rows, r, pieces);
  });
}

}  // namespace

// The choice among logits (rows, V) that are there.
API(choose)(const float* logits, int32_t rows, int32_t V, const Choice* choice) {
  std::vector<Phase> phases(2);
#pragma omp parallel
  {
    Team team = Team::here(phases);
    choose(*choice, rows, V, team, [&](int first, int n, float* to) {
      for (int r = 0; r < rows; r++) std::memcpy(to + size_t(r) * SCAN, logits + size_t(r) * V + first, sizeof(float) * n);
    });
  }
}
