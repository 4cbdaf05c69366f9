// A whole encoder in one call. Groups of sequences that fit into a second-level cache go through all layers, one group a thread; few
// sequences are shared by all threads, which then meet after every step. Nothing is padded: a sequence names its keys.
#pragma once
#include <cstdlib>
#include <new>
#include <vector>

#include "acts.h"
#include "gemm.h"
#include "norm.h"

namespace encoding {
namespace {

constexpr int FEWEST = 64, GROUP = 256;  // tokens that go through all layers together

// Mirrored in encoder.py.
struct EncoderLayer {
  Product qkv, o, gate, up, down;  // gate.rows is 0 where there is none
  Norm attn_norm, ffn_norm;
};

struct Encoder {
  int32_t kind, width, layers, sets, heads, kv_heads, dim, ffn, post, act, reach;  // kind: of activations; reach: positions in bias
  float scale;
  const EncoderLayer* sets_of;
  Norm norm;          // at the end
  const float* bias;  // (heads, 2 * reach - 1), by key minus query, or null
};

// Sequence i has the rows starts[i] … starts[i + 1] and looks at the rows keys[key_starts[i]] … of its own.
struct Sequences {
  int32_t count, threads;
  const int32_t *starts, *key_starts, *keys, *positions;
};

inline float wide(float x) { return x; }
inline float wide(bf16 x) { return from_bf16(x); }

// Memory of one team, zeros at first: widths are filled up to whole vectors, and what fills them has to be a number.
struct Room {
  char* all;
  float* x;               // (rows, width): the residual stream
  void *qkv, *context, *hidden;  // in the kind of activations
  Side a;                 // where rows stand in the form of the next product
  size_t wide, qkv_wide, context_wide, hidden_wide;

  Room(const Encoder& e, int rows) {
    wide = up_to(e.width, SPAN), context_wide = up_to(e.heads * e.dim, SPAN), hidden_wide = up_to(e.ffn, SPAN);
    qkv_wide = up_to((e.heads + 2 * e.kv_heads) * e.dim, SPAN);
    const size_t most = std::max({wide, context_wide, hidden_wide}), n = rows, size = bytes_of(e.kind);
    const size_t sizes[] = {n * wide * 4,         n * qkv_wide * size + 64, n * context_wide * size,
                            n * hidden_wide * size, n * most * 4,             n * most};
    size_t total = 0, at[6];
    for (int i = 0; i < 6; i++) at[i] = total, total += (sizes[i] + 127) / 64 * 64;
    all = (char*)std::calloc(total + 64, 1);
    if (!all) throw std::bad_alloc();
    char* base = all + (64 - (uintptr_t)all % 64) % 64;
    x = (float*)(base + at[0]), qkv = base + at[1], context = base + at[2], hidden = base + at[3];
    float* parts = (float*)(base + at[5]);  // five numbers for 32 columns
    const size_t blocks = n * most / 32;
    int32_t* ends = (int32_t*)(parts + 4 * blocks);
    a = {base + at[4], 0, {rows, 0, nullptr, (int8_t*)base + at[4], parts, parts + blocks, parts + 2 * blocks, ends, nullptr}};
  }
  ~Room() { std::free(all); }
  Room(const Room&) = delete;
};

// A row of `width` floats, filled up to whole vectors, in the form of product w.
inline void form(const float* x, int width, const Product& w, int row, const Side& out) {
  if (w.kind >= U4) return quantize_row(x, out.rows, row, 0, width);
  if (w.kind == F32) return (void)std::memcpy(out.data + row * out.stride, x, sizeof(float) * up_to(width, 16));
  to_bf16(x, (bf16*)(out.data + row * out.stride), up_to(width, 16));
}

// Activations as product w wants them: as they are, or quantized.
template <class T>
inline Side formed(const T* y, size_t stride, const Product& w, int rows, const Side& a, Team& team) {
  if (w.kind < U4) return Side{(char*)y, stride * sizeof(T), {}};
  Side out = a;
  out.rows.count = rows, out.rows.width = w.cols;
  team.share(rows, [&](int first, int last) {
    for (int r = first; r < last; r++) quantize_row(y + r * stride, out.rows, r, 0, w.cols);
  });
  return out;
}

// Attention of one head of one sequence at a time, in memory of its own that stays in the first caches.
template <class T>
struct Attend {
  static constexpr int kind = sizeof(T) == 4 ? F32 : BF16, PER = 4 / sizeof(T);
  const Encoder& e;
  const Sequences& s;
  const Room& room;
  int first;  // the token that stands in row 0 of the room
  std::vector<char> keys, values;
  std::vector<float> scores;
  std::vector<T> weights;

  void pack_keys(const T* k, const int32_t* rows, int count) {
    const int words = words_of(e.dim, kind), whole = up_to(count, SPAN);
    keys.resize(size_t(words) * 4 * whole + 64);
    for (int j = 0; j < whole; j++) {
      char* to = keys.data() + size_t(j / SPAN) * words * 64 * PANEL + 4 * (j % SPAN);
      const char* from = j < count ? (const char*)(k + size_t(rows[j] - first) * room.qkv_wide) : nullptr;
      const int full = e.dim / PER;
      for (int w = 0; w < full; w++) {
        uint32_t word = from ? load<uint32_t>(from + 4 * w) : 0;
        std::memcpy(to + size_t(w) * 64 * PANEL, &word, 4);
      }
      if (full < words) {  // an odd width: its last word is half a word
        uint32_t word = 0;
        if (from) std::memcpy(&word, from + 4 * full, sizeof(T));
        std::memcpy(to + size_t(full) * 64 * PANEL, &word, 4);
      }
    }
  }

  void pack_values(const T* v, const int32_t* rows, int count) {
    const int words = words_of(count, kind), panels = (e.dim + SPAN - 1) / SPAN;
    values.assign(size_t(words) * 64 * PANEL * panels, 0);
    for (int j = 0; j < count; j++) {
      const T* from = v + size_t(rows[j] - first) * room.qkv_wide;
      for (int p = 0; p < panels; p++) {
        T* to = (T*)(values.data() + (size_t(p) * words + j / PER) * 64 * PANEL) + j % PER;
        const int lanes = std::min(SPAN, e.dim - p * SPAN);
        for (int i = 0; i < lanes; i++) to[i * PER] = from[p * SPAN + i];
      }
    }
  }

  // Scores of one query become weights that do not sum to 1 yet; returns what they sum to.
  float soften(float* score, T* weight, int head, int query, const int32_t* rows, int count) const {
    const float* bias = e.bias ? e.bias + size_t(head) * (2 * e.reach - 1) + e.reach - 1 - s.positions[query] : nullptr;
    for (int j = 0; bias && j < count; j++) score[j] += bias[s.positions[rows[j]]];
    const int whole = up_to(count, SPAN);
    for (int j = count; j < whole; j++) score[j] = -1e30f;
    f32x16 top = read(score), total = {};
    for (int j = 16; j < whole; j += 16) top = larger(top, read(score + j));
    const float high = greatest(top);
    for (int j = 0; j < whole; j += 16) {
      f32x16 y = exp16(read(score + j) - high);
      if (j + 16 > count)
        for (int i = std::max(0, count - j); i < 16; i++) y[i] = 0;
      total += y;
      write(weight + j, y);
    }
    return sum(total);
  }

  void operator()(int sequence, int head) {
    const int begin = s.starts[sequence], end = s.starts[sequence + 1], count = s.key_starts[sequence + 1] - s.key_starts[sequence];
    const int32_t* rows = s.keys + s.key_starts[sequence];
    const int shared = head / (e.heads / e.kv_heads), whole = up_to(count, SPAN);
    const T* q = (const T*)room.qkv + size_t(head) * e.dim;
    const T* k = (const T*)room.qkv + size_t(e.heads + shared) * e.dim;
    pack_keys(k, rows, count);
    pack_values(k + size_t(e.kv_heads) * e.dim, rows, count);
    const int step = std::max(DEEP, 16384 / whole / DEEP * DEEP);  // queries whose scores stay close
    scores.resize(size_t(step) * whole), weights.resize(size_t(step) * whole);
    std::vector<float> sums(step);
    T* out = (T*)room.context + size_t(head) * e.dim;
    for (int at = begin; at < end; at += step) {
      const int queries = std::min(step, end - at);
      const char* x = (const char*)(q + size_t(at - first) * room.qkv_wide);
      const auto keep = [&](int row, int tile, f32x16 y) { write(scores.data() + size_t(row) * whole + 16 * tile, y * e.scale); };
      for (int panel = 0; panel < whole / SPAN; panel++)
        panel_of<kind>(x, room.qkv_wide * sizeof(T), keys.data(), words_of(e.dim, kind), 0, queries, panel, keep);
      for (int r = 0; r < queries; r++)
        sums[r] = soften(scores.data() + size_t(r) * whole, weights.data() + size_t(r) * whole, head, at + r, rows, count);
      const auto give = [&](int row, int tile, f32x16 y) {
        T* to = out + size_t(at - first + row) * room.context_wide + 16 * tile;
        y *= 1 / sums[row];
        if (16 * tile + 16 <= e.dim) return write(to, y);
        T part[16];
        write(part, y);
        for (int i = 0; 16 * tile + i < e.dim; i++) to[i] = part[i];
      };
      for (int panel = 0; panel < (e.dim + SPAN - 1) / SPAN; panel++)
        panel_of<kind>((const char*)weights.data(), whole * sizeof(T), values.data(), words_of(count, kind), 0, queries, panel, give);
    }
  }
};

// Sequences `from` to `to` through all layers. T is the type of activations.
template <class T>
struct Pass {
  const Encoder& e;
  const Sequences& s;
  const Room& room;
  int from, to;
  Team team;
  int first = 0, rows = 0;
  Side a = room.a;

  // Norms x, or not; puts it back where the order is post, and into the form of the next product.
  void prepare(const Norm* norm, bool back, const Product* next) {
    std::vector<float> row(room.wide);
    a.stride = room.wide * (next ? bytes_of(next->kind) : 0);
    a.rows.count = rows, a.rows.width = e.width;
    team.share(rows, [&](int from, int to) {
      for (int r = from; r < to; r++) {
        float* x = room.x + r * room.wide;
        if (norm) normalize(*norm, x, back ? x : row.data(), e.width);
        if (next) form(norm && !back ? row.data() : x, e.width, *next, r, a);
      }
    });
  }

  void store(const Product& w, T* out, size_t wide) {
    product(w, a, rows, team, [&](int row, int column, f32x16 y) { write(out + row * wide + column, y); });
  }

  void add(const Product& w, const T* in, size_t stride) {
    const Side side = formed(in, stride, w, rows, a, team);
    product(w, side, rows, team, [&](int row, int column, f32x16 y) {
      float* x = room.x + row * room.wide + column;
      write(x, read(x) + y);
    });
  }

  template <int act>
  void widen(const EncoderLayer& layer) {
    T* hidden = (T*)room.hidden;
    const Product& w = layer.gate.rows ? layer.gate : layer.up;
    product(w, a, rows, team, [&](int row, int column, f32x16 y) { write(hidden + row * room.hidden_wide + column, activate<act>(y)); });
    if (layer.gate.rows) {
      product(layer.up, a, rows, team, [&](int row, int column, f32x16 y) {
        T* h = hidden + row * room.hidden_wide + column;
        write(h, read(h) * y);
      });
    }
  }

  void widen(const EncoderLayer& layer) {
    switch (e.act) {
#define CASE(A) \
  case A: return widen<A>(layer);
      CASE(GELU) CASE(GELU_TANH) CASE(QUICK_GELU) CASE(RELU) CASE(SILU) CASE(SIGMOID) CASE(TANH)
#undef CASE
    }
  }

  void attend() {
    Attend<T> one{e, s, room, first, {}, {}, {}, {}};
    const int items = (to - from) * e.heads;
    team.share(items, [&](int begin, int end) {
      for (int i = begin; i < end; i++) one(from + i / e.heads, i % e.heads);
    });
  }

  void run(const T* in, T* out) {
    first = s.starts[from], rows = s.starts[to] - first;
    team.share(rows, [&](int begin, int end) {
      for (int r = begin; r < end; r++)
        for (int i = 0; i < e.width; i++) room.x[r * room.wide + i] = wide(in[size_t(first + r) * e.width + i]);
    });
    for (int use = 0; use < e.layers; use++) {
      const EncoderLayer& layer = e.sets_of[use * e.sets / e.layers];
      if (!e.post) prepare(&layer.attn_norm, false, &layer.qkv);
      else if (use == 0) prepare(nullptr, false, &layer.qkv);
      store(layer.qkv, (T*)room.qkv, room.qkv_wide);
      attend();
      add(layer.o, (const T*)room.context, room.context_wide);
      prepare(e.post ? &layer.attn_norm : &layer.ffn_norm, e.post, &layer.up);
      widen(layer);
      add(layer.down, (const T*)room.hidden, room.hidden_wide);
      if (e.post) prepare(&layer.ffn_norm, true, use + 1 < e.layers ? &e.sets_of[(use + 1) * e.sets / e.layers].qkv : nullptr);
    }
    if (e.norm.kind) prepare(&e.norm, true, nullptr);
    std::vector<T> last(up_to(e.width, 16));
    team.share(rows, [&](int begin, int end) {
      for (int r = begin; r < end; r++) {
        for (int i = 0; i < e.width; i += 16) write(last.data() + i, read(room.x + r * room.wide + i));
        std::memcpy(out + size_t(first + r) * e.width, last.data(), e.width * sizeof(T));
      }
    });
  }
};

template <class T>
void encode(const Encoder& e, const Sequences& s, const T* in, T* out) {
  std::vector<int> bounds{0};  // sequences where groups begin
  int most = 0;
  const int group = std::min(GROUP, std::max(FEWEST, s.starts[s.count] / (4 * s.threads)));
  for (int i = 1; i <= s.count; i++) {
    const int size = s.starts[i] - s.starts[bounds.back()];
    if (i == s.count || s.starts[i + 1] - s.starts[bounds.back()] > group) bounds.push_back(i), most = std::max(most, size);
  }
  const int groups = int(bounds.size()) - 1;
  if (s.threads == 1 || groups >= 2 * s.threads) {
#pragma omp parallel num_threads(s.threads) if (s.threads > 1)
    {
      Room room(e, most);
#pragma omp for schedule(dynamic)
      for (int g = 0; g < groups; g++) Pass<T>{e, s, room, bounds[g], bounds[g + 1], {0, 1, nullptr}}.run(in, out);
    }
    return;
  }
  Room room(e, s.starts[s.count]);
  std::vector<Phase> phases(16 * e.layers + 16);  // a layer has 11 at most
#pragma omp parallel num_threads(s.threads)
  Pass<T>{e, s, room, 0, s.count, Team::here(phases)}.run(in, out);
}

}  // namespace
}  // namespace encoding

// in and out: (tokens, width), floats or bfloat16 as `kind` says.
API(encode)(const encoding::Encoder* e, const encoding::Sequences* s, const void* in, void* out) {
  if (e->kind == F32) encoding::encode(*e, *s, (const float*)in, (float*)out);
  else encoding::encode(*e, *s, (const bf16*)in, (bf16*)out);
}
