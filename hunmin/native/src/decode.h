// One decoding step of a whole stack: a new token in each of several rows, in one parallel region.
//
// The structures mirror hunmin/nn/spec.py (and native/program.py, which fills them): an architecture is values of these, never code.
// Numbers between the products are fp32. A row's result does not depend on the other rows.
#pragma once
#include "attention.h"
#include "choose.h"
#include "many.h"

namespace {

struct Layer {
  Site self, cross;
  Matrix gate, up, down;
  Norm attn_norm, attn_out_norm, cross_norm, ffn_norm, ffn_out_norm;
  int32_t act, gated, crossed, store;  // store: where its keys and values are
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

// out += weight * x
inline void add_scaled(float* out, float weight, const float* x, int n) {
  for (int i = 0; i < n; i++) out[i] += weight * x[i];
}

// to = act(y), times `factor` where there is one; n is at most 32.
template <int act>
inline void activate_block(const float* y, const float* factor, float* to, int n) {
  alignas(64) float in[32] = {}, by[32] = {};
  std::memcpy(in, y, sizeof(float) * n);
  if (factor) std::memcpy(by, factor, sizeof(float) * n);
  for (int i = 0; i < 32; i += 16) {
    const f32x16 out = activate<act>(read(in + i));
    write(in + i, factor ? out * read(by + i) : out);
  }
  std::memcpy(to, in, sizeof(float) * n);
}

inline void activation(int act, const float* y, const float* factor, float* to, int n) {
  switch (act) {
    case GELU: return activate_block<GELU>(y, factor, to, n);
    case GELU_TANH: return activate_block<GELU_TANH>(y, factor, to, n);
    case QUICK_GELU: return activate_block<QUICK_GELU>(y, factor, to, n);
    case RELU: return activate_block<RELU>(y, factor, to, n);
    case SILU: return activate_block<SILU>(y, factor, to, n);
    case SIGMOID: return activate_block<SIGMOID>(y, factor, to, n);
    default: return activate_block<TANH>(y, factor, to, n);
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

// Norm and rotation of a new key; key and value go into their page.
inline void keep(const Site& site, const Pool& pool, int store, int row, int group, float* k, const float* v) {
  const int at = pool.lengths[row];
  if (site.k_norm.kind) normalize(site.k_norm, k, k, site.dim);
  if (site.turned) rotate(site, k, at);
  const size_t page = pool.page(site, row, group, at / PAGE), column = page + at % PAGE, line = page + at % PAGE * site.dim;
  if (pool.kind == F32) {
    float* keys = (float*)pool.keys[store] + column;
    for (int i = 0; i < site.dim; i++) keys[i * PAGE] = k[i];
    std::memcpy((float*)pool.values[store] + line, v, sizeof(float) * site.dim);
  } else {
    bf16 *keys = (bf16*)pool.keys[store] + column, *values = (bf16*)pool.values[store] + line;
    to_bf16(k, values, site.dim);  // rounded where the value comes to stand
    for (int i = 0; i < site.dim; i++) keys[i * PAGE] = values[i];
    to_bf16(v, values, site.dim);
  }
}

// Cuts the rows into blocks: the tokens of one text, one after another, or rows with one memory.
inline int cut(const Pool& pool, int rows, bool cross, Block* blocks) {
  int count = 0;
  for (int r = 0; r < rows; r++) {
    const bool next = r && pool.lengths[r] == pool.lengths[r - 1] + (cross ? 0 : 1) && blocks[count - 1].count < BLOCK;
    const size_t used = sizeof(int32_t) * ((pool.lengths[r] + PAGE) / PAGE), at = size_t(r) * pool.width;
    if (next && !std::memcmp(pool.table + at, pool.table + at - pool.width, used)) blocks[count - 1].count++;
    else blocks[count++] = {r, 1};
  }
  return count;
}

// What a step works in. `in` is the input of products, with room for its quantized form.
struct Room {
  int32_t rows;
  int32_t desk;             // floats of a thread's desk
  float *x, *y, *wide, *far, *desks;  // (rows, C), (rows, C), (rows, widest) twice, (threads, desk)
  Block *blocks, *memories;  // (rows), (rows)
  Rows in;
};

struct Step {
  const Program& program;
  const Room& room;
  mutable Team team;
  const int texts, memories;  // blocks of rows
  const int C = program.width;

  float* input(int row) const { return const_cast<float*>(room.in.x) + size_t(row) * room.in.width; }

  Rows rows(int width) const {
    Rows out = room.in;
    out.width = (width + 31) / 32 * 32;
    return out;
  }

  // Calls `work(i)` for all i below n.
  template <class Work>
  void each(int n, const Work& work) const {
    team.share(n, [&](int first, int last) {
      for (int i = first; i < last; i++) work(i);
    });
  }

  // The products of one input: their tiles are one list, cut by threads.
  void products(int width, std::initializer_list<std::pair<const Matrix*, float*>> list, size_t stride, int count = -1) const {
    int pairs = 0;
    Rows in = rows(width);
    if (count >= 0) in.count = count;
    for (const auto& [w, y] : list) pairs += (tiles(*w) + 1) / 2;
    team.share(pairs, [&](int from, int to) {
      for (const auto& [w, y] : list) {
        const int n = (tiles(*w) + 1) / 2, first = std::max(0, from), last = std::min(n, to);
        if (first < last) multiply_many(*w, in, y + 32 * first, stride, 2 * first, std::min(tiles(*w), 2 * last));
        from -= n, to -= n;
      }
    });
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
    each(room.rows, [&](int r) {
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
    });
  }

  // The queries of a block of rows that share the keys and values of `group`.
  void look_at(const Site& site, const Pool& pool, int store, bool cross, const Block& block, int group, int stride) const {
    const int D = site.dim, per = site.heads / site.kv_heads, all = block.count * per;
    Desk desk(room.desks + size_t(team.self) * room.desk, D);
    View views[QUERIES];
    for (int from = 0; from < all; from += QUERIES) {
      const int count = std::min(QUERIES, all - from);
      for (int i = 0; i < count; i++) {
        const int r = block.first + (from + i) / per, h = group * per + (from + i) % per, before = pool.lengths[r];
        float* q = desk.q + i * D;
        std::memcpy(q, room.wide + size_t(r) * stride + h * D, sizeof(float) * D);
        if (site.q_norm.kind) normalize(site.q_norm, q, q, D);
        if (site.turned) rotate(site, q, before);
        const int end = before + (cross ? 0 : 1);
        views[i] = {site.window ? std::max(0, end - site.window) : 0, end, h};
      }
      if (pool.kind == F32) attend<float>(site, pool, store, block.first + block.count - 1, group, desk, views, count);
      else attend<bf16>(site, pool, store, block.first + block.count - 1, group, desk, views, count);
      for (int i = 0; i < count; i++)
        std::memcpy(start(block.first + (from + i) / per, site.heads * D) + views[i].head * D, desk.out + i * D, sizeof(float) * D);
    }
  }

  void attention(const Site& site, const Pool& pool, int store, bool cross) const {
    const int D = site.dim, Q = site.heads * D, K = site.kv_heads * D, stride = Q + 2 * K;
    float* z = room.wide;
    if (cross) products(C, {{&site.q, z}}, stride);
    else products(C, {{&site.q, z}, {&site.k, z + Q}, {&site.v, z + Q + K}}, stride);
    if (!cross) {
      each(room.rows * site.kv_heads, [&](int i) {
        const int r = i / site.kv_heads, g = i % site.kv_heads;
        float* k = z + size_t(r) * stride + Q + g * D;
        keep(site, pool, store, r, g, k, k + K);
      });
    }
    const Block* blocks = cross ? room.memories : room.blocks;
    each((cross ? memories : texts) * site.kv_heads,
         [&](int i) { look_at(site, pool, store, cross, blocks[i / site.kv_heads], i % site.kv_heads, stride); });
    each(room.rows, [&](int r) { ready(r, Q); });
    products(Q, {{&site.o, room.y}}, C);
  }

  void feed_forward(const Layer& layer) const {
    const int F = layer.up.rows;
    if (layer.gated) products(C, {{&layer.gate, room.wide}, {&layer.up, room.far}}, F);
    else products(C, {{&layer.up, room.wide}}, F);
    const int blocks = (F + 31) / 32;
    each(room.rows * blocks, [&](int i) {
      const int r = i / blocks, from = i % blocks * 32, n = std::min(32, F - from);
      const size_t place = size_t(r) * F + from;
      activation(layer.act, room.wide + place, layer.gated ? room.far + place : nullptr, start(r, F) + from, n);
      const Rows in = rows(F);
      const size_t at = size_t(r) * in.width + from;
      if (program.kinds & 1 << U4) quantize_row(in.x + size_t(r) * in.width, in, r, from, from + 32);
      if (program.kinds & 1 << BF16) to_bf16(in.x + at, in.half + at, 32);
    });
    products(F, {{&layer.down, room.y}}, C);
  }

  void embed(const int64_t* ids, const Pool& pool) const {
    each(room.rows, [&](int r) {
      float* x = room.x + size_t(r) * C;
      numbers(program.embed, int(ids[r]), x);
      for (int i = 0; i < C; i++) x[i] *= program.scale;
      if (program.positions) add_scaled(x, 1, program.positions + size_t(pool.lengths[r]) * C, C);
      normalize(program.embed_norm, x, x, C);
    });
  }

  void run(const int64_t* ids, const Pool& self, const Pool& cross, const int32_t* wanted, int count, float* logits,
           const Choice* choice) const {
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
    head(wanted, count, logits, choice);
  }

  void capped(float* logits, size_t n) const {
    const float cap = program.head_softcap;
    for (size_t i = 0; cap > 0 && i < n; i++) logits[i] = cap * std::tanh(logits[i] / cap);
  }

  // Logits of the wanted rows, or with `choice` their best alone: their inputs are `count` rows of `y`, then the first of `in`.
  void head(const int32_t* wanted, int count, float* logits, const Choice* choice) const {
    const size_t V = program.head.rows, W = (C + 31) / 32 * 32;
    each(count, [&](int i) { std::memcpy(room.y + size_t(i) * C, room.in.x + wanted[i] * W, sizeof(float) * C); });
    each(count, [&](int i) {
      float *to = start(i, C), *from = room.y + size_t(i) * C;
      if (program.post) normalize(program.norm, from, from, C);  // at the end of a post-norm stack
      for (int j = 0; j < C; j++) to[j] = from[j] * program.head_scale;
      ready(i, C);
    });
    if (choice) {
      Rows in = rows(C);
      in.count = count;
      choose(*choice, count, V, team, [&](int first, int n, float* to) {
        multiply_many(program.head, in, to, SCAN, first / 16, (first + n + 15) / 16);
        capped(to, size_t(count) * SCAN);
      });
      return;
    }
    products(C, {{&program.head, logits}}, V, count);
    team.share(count, [&](int first, int last) { capped(logits + first * V, (last - first) * V); });
  }
};

}  // namespace

// ids (rows) -> logits (count, V) of the `wanted` rows, or where there is one their `choice`. Keys and values of the new tokens are written
// into `self` before any row looks at them, so rows may be the tokens of one text, one after another. `cross` holds those of the encoder.
API(decode)(const Program* program, const Room* room, const int64_t* ids, const Pool* self, const Pool* cross, const int32_t* wanted,
            int32_t count, float* logits, const Choice* choice) {
  const int texts = cut(*self, room->rows, false, room->blocks), memories = cross ? cut(*cross, room->rows, true, room->memories) : 0;
  std::vector<Phase> phases(16 * program->count + 16);  // a layer with cross-attention has 15, all else together 7
#pragma omp parallel
  Step{*program, *room, Team::here(phases), texts, memories}.run(ids, *self, *cross, wanted, count, logits, choice);
}
