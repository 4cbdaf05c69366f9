// One decoding step of a whole stack: a new token in each of several rows, in one parallel region.
//
// The structures mirror hunmin/nn/spec.py (and native/program.py, which fills them): an architecture is values of these, never code.
// Numbers between the products are fp32. A row's result does not depend on the other rows.
#pragma once
#include "matmul.h"

namespace {

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

enum Act : int32_t { GELU = 0, GELU_TANH, QUICK_GELU, RELU, SILU, SIGMOID, TANH };

struct Layer {
  Site self, cross;
  Matrix gate, up, down;
  Norm attn_norm, attn_out_norm, cross_norm, ffn_norm, ffn_out_norm;
  int32_t act, gated, crossed, store;  // store: where its keys and values are
};

struct Pool {  // keys and values in pages of 32 tokens: (pages, kv_heads, 32, dim) for every layer
  void *const *keys, *const *values;
  const int32_t *table, *lengths;  // (rows, width): pages of a row; (rows): tokens before the new one
  int32_t width, kind;             // F32 or BF16
};

struct Program {
  const Layer* layers;
  Matrix embed, head;
  const float* positions;  // (count, C), or null
  Norm embed_norm, norm;
  int32_t count, width, post, kinds;  // width: C. post: norm after the sum. kinds: bits of the kinds of weight that there are
  float scale, head_scale, head_softcap;
  int32_t widest;  // the widest input of a product, filled up to 32
};

constexpr int PAGE = 32;

struct Team {
  int self, all;
  int from(int n) const { return int(int64_t(n) * self / all); }
  int to(int n) const { return int(int64_t(n) * (self + 1) / all); }
};

inline void barrier() {
#pragma omp barrier
}

inline float dot(const float* a, const float* b, int n) {
  f32x16 acc = {};
  int i = 0;
  for (; i + 16 <= n; i += 16) acc = fma(load<f32x16>(a + i), load<f32x16>(b + i), acc);
  float out = sum(acc);
  for (; i < n; i++) out += a[i] * b[i];
  return out;
}

inline float dot(const float* a, const bf16* b, int n) {
  f32x16 acc = {};
  int i = 0;
  for (; i + 16 <= n; i += 16) acc = fma(load<f32x16>(a + i), load_bf16(b + i), acc);
  float out = sum(acc);
  for (; i < n; i++) out += a[i] * from_bf16(b[i]);
  return out;
}

// out += weight * x
inline void add_scaled(float* out, float weight, const float* x, int n) {
  for (int i = 0; i < n; i++) out[i] += weight * x[i];
}

inline void add_scaled(float* out, float weight, const bf16* x, int n) {
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    const f32x16 y = fma(splat(weight), load_bf16(x + i), load<f32x16>(out + i));
    std::memcpy(out + i, &y, 64);
  }
  for (; i < n; i++) out[i] += weight * from_bf16(x[i]);
}

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

inline float activate(int act, float x) {
  switch (act) {
    case GELU: return 0.5f * x * (1 + std::erf(x * 0.70710678f));
    case GELU_TANH: return 0.5f * x * (1 + fast_tanh(0.79788456f * (x + 0.044715f * x * x * x)));
    case QUICK_GELU: return x * sigmoid(1.702f * x);
    case RELU: return std::max(x, 0.0f);
    case SILU: return x * sigmoid(x);
    case SIGMOID: return sigmoid(x);
    default: return fast_tanh(x);
  }
}

template <int act>
inline void activate_all(float* x, const float* factor, int n) {
  if (factor)
    for (int i = 0; i < n; i++) x[i] = activate(act, x[i]) * factor[i];
  else
    for (int i = 0; i < n; i++) x[i] = activate(act, x[i]);
}

inline void activation(int act, float* x, const float* factor, int n) {
  switch (act) {
    case GELU: return activate_all<GELU>(x, factor, n);
    case GELU_TANH: return activate_all<GELU_TANH>(x, factor, n);
    case QUICK_GELU: return activate_all<QUICK_GELU>(x, factor, n);
    case RELU: return activate_all<RELU>(x, factor, n);
    case SILU: return activate_all<SILU>(x, factor, n);
    case SIGMOID: return activate_all<SIGMOID>(x, factor, n);
    default: return activate_all<TANH>(x, factor, n);
  }
}

inline void rotate(const Site& site, float* x, int position) {
  const int half = site.turned / 2;
  const float *cos = site.cos + size_t(position) * half, *sin = site.sin + size_t(position) * half;
  for (int i = 0; i < half; i++) {
    const float a = x[i], b = x[half + i];
    x[i] = a * cos[i] - b * sin[i];
    x[half + i] = b * cos[i] + a * sin[i];
  }
}

inline size_t slot(const Site& site, const Pool& pool, int row, int group, int token) {
  const size_t page = pool.table[size_t(row) * pool.width + token / PAGE];
  return ((page * site.kv_heads + group) * PAGE + token % PAGE) * site.dim;
}

// Norm and rotation of a new key; key and value go into their page.
inline void keep(const Site& site, const Pool& pool, int store, int row, int group, float* k, const float* v) {
  const int at = pool.lengths[row];
  if (site.k_norm.kind) normalize(site.k_norm, k, k, site.dim);
  if (site.turned) rotate(site, k, at);
  const size_t to = slot(site, pool, row, group, at);
  if (pool.kind == F32) {
    std::memcpy((float*)pool.keys[store] + to, k, sizeof(float) * site.dim);
    std::memcpy((float*)pool.values[store] + to, v, sizeof(float) * site.dim);
  } else {
    for (int i = 0; i < site.dim; i++) ((bf16*)pool.keys[store])[to + i] = to_bf16(k[i]);
    for (int i = 0; i < site.dim; i++) ((bf16*)pool.values[store])[to + i] = to_bf16(v[i]);
  }
}

template <class T>
inline void look(const Site& site, const Pool& pool, int store, int row, int head, int seen, const float* q, float* scores, float* out) {
  const int group = head / (site.heads / site.kv_heads), first = site.window ? std::max(0, seen - site.window) : 0;
  const T *keys = (const T*)pool.keys[store], *values = (const T*)pool.values[store];
  float top = -INFINITY, total = 0;
  for (int t = first; t < seen; t++) {
    float s = dot(q, keys + slot(site, pool, row, group, t), site.dim) * site.scale;
    if (site.bias) s += site.bias[size_t(head) * site.far + std::min(seen - 1 - t, site.far - 1)];
    if (site.softcap > 0) s = site.softcap * fast_tanh(s / site.softcap);
    scores[t] = s;
    top = std::max(top, s);
  }
  for (int t = first; t < seen; t++) scores[t] = fast_exp(scores[t] - top);
  for (int t = first; t < seen; t++) total += scores[t];
  std::memset(out, 0, sizeof(float) * site.dim);
  for (int t = first; t < seen; t++) add_scaled(out, scores[t] / total, values + slot(site, pool, row, group, t), site.dim);
}

// What a step works in. `in` is the input of products, with room for its quantized form.
struct Room {
  int rows;
  float *x, *y, *wide, *far, *scores;  // (rows, C), (rows, C), (rows, widest) twice, (threads, tokens)
  Rows in;
  int32_t tokens;
};

struct Step {
  const Program& program;
  const Room& room;
  const Team team;
  const int C = program.width;

  float* input(int row) const { return const_cast<float*>(room.in.x) + size_t(row) * room.in.width; }

  Rows rows(int width) const {
    Rows out = room.in;
    out.width = (width + 31) / 32 * 32;
    return out;
  }

  // The products of one input: their tiles are one list, cut by threads.
  void products(int width, std::initializer_list<std::pair<const Matrix*, float*>> list, size_t stride) const {
    int all = 0, start = 0;
    for (const auto& [w, y] : list) all += tiles(*w);
    const int from = team.from(all), to = team.to(all);
    for (const auto& [w, y] : list) {
      const int n = tiles(*w), first = std::max(0, from - start), last = std::min(n, to - start);
      if (first < last) multiply(*w, rows(width), y, stride, false, first, last);
      start += n;
    }
    barrier();
  }

  // Inputs stand one after another at their own width, which changes from product to product.
  void ready(int row, int width) const {
    const Rows in = rows(width);
    for (int kind : {BF16, U4})
      if (program.kinds & 1 << kind) prepare(in, kind, row, row + 1);
  }

  float* start(int row, int width) const {
    const size_t filled = (width + 31) / 32 * 32;
    float* to = const_cast<float*>(room.in.x) + row * filled;
    for (size_t i = width; i < filled; i++) to[i] = 0;
    return to;
  }

  // x += y, with the norms around it; then the norm before the next product.
  void sum_and_norm(const Norm* out_norm, const Norm* own, const Norm* next, bool add) const {
    for (int r = team.from(room.rows); r < team.to(room.rows); r++) {
      float *x = room.x + size_t(r) * C, *y = room.y + size_t(r) * C;
      if (add) {
        if (out_norm && out_norm->kind) normalize(*out_norm, y, y, C);
        for (int i = 0; i < C; i++) x[i] += y[i];
        if (program.post) normalize(*own, x, x, C);
      }
      float* to = start(r, C);
      if (program.post || !next) std::memcpy(to, x, sizeof(float) * C);
      else normalize(*next, x, to, C);
      ready(r, C);
    }
    barrier();
  }

  void attention(const Site& site, const Pool& pool, int store, bool cross) const {
    const int D = site.dim, Q = site.heads * D, K = site.kv_heads * D, stride = Q + 2 * K;
    float* z = room.wide;
    if (cross) products(C, {{&site.q, z}}, stride);
    else products(C, {{&site.q, z}, {&site.k, z + Q}, {&site.v, z + Q + K}}, stride);
    if (!cross) {
      const int all = room.rows * site.kv_heads;
      for (int i = team.from(all); i < team.to(all); i++) {
        const int r = i / site.kv_heads, g = i % site.kv_heads;
        float* k = z + size_t(r) * stride + Q + g * D;
        keep(site, pool, store, r, g, k, k + K);
      }
      barrier();
    }
    const int all = room.rows * site.heads;
    for (int i = team.from(all); i < team.to(all); i++) {
      const int r = i / site.heads, h = i % site.heads, seen = pool.lengths[r] + (cross ? 0 : 1);
      float *q = z + size_t(r) * stride + h * D, *scores = room.scores + size_t(team.self) * room.tokens, *out = start(r, Q) + h * D;
      if (site.q_norm.kind) normalize(site.q_norm, q, q, D);
      if (site.turned) rotate(site, q, pool.lengths[r]);
      if (pool.kind == F32) look<float>(site, pool, store, r, h, seen, q, scores, out);
      else look<bf16>(site, pool, store, r, h, seen, q, scores, out);
    }
    barrier();
    for (int r = team.from(room.rows); r < team.to(room.rows); r++) ready(r, Q);
    barrier();
    products(Q, {{&site.o, room.y}}, C);
  }

  void feed_forward(const Layer& layer) const {
    const int F = layer.up.rows;
    if (layer.gated) products(C, {{&layer.gate, room.wide}, {&layer.up, room.far}}, F);
    else products(C, {{&layer.up, room.wide}}, F);
    const int blocks = (F + 31) / 32, all = room.rows * blocks;
    for (int i = team.from(all); i < team.to(all); i++) {
      const int r = i / blocks, from = i % blocks * 32, n = std::min(32, F - from);
      float *y = room.wide + size_t(r) * F + from, *to = start(r, F) + from;
      activation(layer.act, y, layer.gated ? room.far + size_t(r) * F + from : nullptr, n);
      std::memcpy(to, y, sizeof(float) * n);
      const Rows in = rows(F);
      const size_t at = size_t(r) * in.width + from;
      if (program.kinds & 1 << U4) quantize_row(in.x + at, 32, in.q + at, in.s + at / 32, in.sums + at / 16);
      if (program.kinds & 1 << BF16)
        for (int j = 0; j < 32; j++) in.half[at + j] = to_bf16(in.x[at + j]);
    }
    barrier();
    products(F, {{&layer.down, room.y}}, C);
  }

  void embed(const int64_t* ids, const Pool& pool) const {
    for (int r = team.from(room.rows); r < team.to(room.rows); r++) {
      float* x = room.x + size_t(r) * C;
      numbers(program.embed, int(ids[r]), x);
      for (int i = 0; i < C; i++) x[i] *= program.scale;
      if (program.positions) add_scaled(x, 1, program.positions + size_t(pool.lengths[r]) * C, C);
      normalize(program.embed_norm, x, x, C);
    }
    barrier();
  }

  void run(const int64_t* ids, const Pool& self, const Pool& cross, float* logits) const {
    embed(ids, self);
    sum_and_norm(nullptr, nullptr, program.count ? &program.layers[0].attn_norm : nullptr, false);
    for (int l = 0; l < program.count; l++) {
      const Layer& layer = program.layers[l];
      const Norm* next = l + 1 < program.count ? &program.layers[l + 1].attn_norm : &program.norm;
      attention(layer.self, self, layer.store, false);
      sum_and_norm(&layer.attn_out_norm, &layer.attn_norm, layer.crossed ? &layer.cross_norm : &layer.ffn_norm, true);
      if (layer.crossed) {
        attention(layer.cross, cross, layer.store, true);
        sum_and_norm(nullptr, &layer.cross_norm, &layer.ffn_norm, true);
      }
      feed_forward(layer);
      sum_and_norm(&layer.ffn_out_norm, &layer.ffn_norm, next, true);
    }
    head(logits);
  }

  void head(float* logits) const {
    const size_t V = program.head.rows, W = (C + 31) / 32 * 32;
    if (program.post || program.head_scale != 1) {  // a norm at the end of a post-norm stack; a scale of the head's input
      for (int r = team.from(room.rows); r < team.to(room.rows); r++) {
        float* to = const_cast<float*>(room.in.x) + r * W;
        if (program.post) normalize(program.norm, to, to, C);
        for (int i = 0; i < C; i++) to[i] *= program.head_scale;
        ready(r, C);
      }
      barrier();
    }
    products(C, {{&program.head, logits}}, V);
    if (program.head_softcap > 0) {
      const float cap = program.head_softcap;
      for (size_t i = team.from(room.rows) * V; i < team.to(room.rows) * V; i++) logits[i] = cap * fast_tanh(logits[i] / cap);
    }
  }
};

}  // namespace

// ids (rows) -> logits (rows, V). Keys and values of the new tokens are written into `self`; `cross` holds the encoder's.
API(decode)(const Program* program, const Room* room, const int64_t* ids, const Pool* self, const Pool* cross, float* logits) {
#pragma omp parallel
  {
#if defined(_OPENMP)
    const Team team{omp_get_thread_num(), omp_get_num_threads()};
#else
    const Team team{0, 1};
#endif
    Step{*program, *room, team}.run(ids, *self, *cross, logits);
  }
}
