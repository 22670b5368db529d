// Attention backward: probabilities are computed again from the saved log-sum-exp, tile by tile (Dao et al. 2022, FlashAttention).
// With P = exp(S - lse), S = scale Q K^T and delta = rowsum(dO * O):
//   dV = P^T dO,  dP = dO V^T,  dS = P * (dP - delta),  dQ = scale dS K,  dK = scale dS^T Q.
#include "attention_tiles.hpp"

namespace howdah::HOWDAH_ISA {

namespace {

constexpr int64_t kQueries = 8 * kTileRows; // queries per tile
constexpr int64_t kKeys = 64;               // keys per block

/** What one call computes: gradients of the keys and values of a range, of a range of queries, or of both at once. */
struct Part {
  int64_t q0, q1, k0, k1;
  bool queries, keys;
};

/** Operands are words in the forms of attention_tiles.hpp; sums are f32. */
struct Workspace {
  // Per query of the part.
  float *q_rows, *dout_rows;     // depth along the row
  float *q_across, *dout_across; // depth across rows: the same memory when a word is one number
  float* dq;                     // (queries, padded width)
  float *delta, *lse;
  Visible* seen;
  // Per block of keys.
  float *key_columns, *value_columns; // (depth of the width, kKeys)
  float* keys_across;                 // (depth of kKeys, padded width)
  float *dk, *dv;                     // (kKeys, padded width)
  // Per strip and tile of queries.
  float *p, *ds;               // (kQueries, kKeys): f32, then rows of words
  float *p_across, *ds_across; // (depth of kQueries, kKeys): the same memory as p and ds when a word is one number
  float* keep;                 // (kKeys)
  float* spare;                // (kKeys, larger padded width)
};

template <bool Half>
Workspace carve(const AttentionArgs& a, const Part& part) {
  const int64_t n = part.q1 - part.q0, width = pad(a.width), value_width = pad(a.value_width);
  const int64_t per_query = 3 * width + 2 * value_width + 4;
  const int64_t fixed = (kKeys + 2) * (3 * width + 2 * value_width + std::max(width, value_width)) + 4 * kQueries * kKeys + kKeys + 2 * (width + value_width);
  float* next = scratch(0, static_cast<size_t>(n * per_query + fixed) * 4);
  const auto take = [&](int64_t count) {
    float* p = next;
    next += count;
    return p;
  };
  Workspace w;
  w.q_rows = take(n * width / Form<Half>::per_word);
  w.dout_rows = take(n * value_width / Form<Half>::per_word);
  w.q_across = Half ? take(Form<Half>::depth(n) * width) : w.q_rows;
  w.dout_across = Half ? take(Form<Half>::depth(n) * value_width) : w.dout_rows;
  w.dq = take(n * width);
  w.key_columns = take(a.width * kKeys);
  w.value_columns = take(a.value_width * kKeys);
  w.keys_across = take(kKeys * width);
  w.dk = take(kKeys * width);
  w.dv = take(kKeys * value_width);
  w.p = take(kQueries * kKeys);
  w.ds = take(kQueries * kKeys);
  w.p_across = Half ? take(kQueries * kKeys / 2) : w.p;
  w.ds_across = Half ? take(kQueries * kKeys / 2) : w.ds;
  w.keep = take(kKeys);
  w.spare = take(kKeys * std::max(width, value_width));
  w.delta = take(n);
  w.lse = take(n);
  w.seen = reinterpret_cast<Visible*>(take(2 * n));
  return w;
}

/** P and dS of a strip of rows from its scores (in p) and dP (in ds); zeros wherever a row does not see. */
HOWDAH_INLINE void strip_probabilities(const AttentionArgs& a, const Workspace& w, int64_t row, int64_t i, int64_t key0, int64_t columns,
                                       float slope, float* p, float* ds) {
  const Visible seen = w.seen[i];
  const int64_t low = std::max<int64_t>(0, seen.first - key0), high = std::min<int64_t>(kKeys, seen.end - key0);
  if (low >= high) {
    std::fill_n(p, kKeys, 0.0f);
    std::fill_n(ds, kKeys, 0.0f);
    return;
  }
  const bool drops = a.dropout_key && a.dropout > 0;
  if (drops) keep_factors(a, row * a.keys + key0, high, w.keep);
  const vf shift = splat(-w.lse[i] - (slope != 0 ? slope * static_cast<float>(seen.end - 1 - key0) : 0.0f));
  const vf delta = splat(w.delta[i]);
  const vi from = splat_i(static_cast<int32_t>(low)), to = splat_i(static_cast<int32_t>(high));
  for (int64_t j = 0; j < columns; j += W) {
    vf s = load(p + j) + shift;
    const vi index = iota() + splat_i(static_cast<int32_t>(j));
    if (slope != 0) s = fma(to_float(index), splat(slope), s);
    vf probability = exp_bounded(s);
    vf dp = load(ds + j);
    vf kept = probability;
    if (drops) {
      const vf keep = load(w.keep + j);
      kept = probability * keep;
      dp = dp * keep;
    }
    vf dscore = probability * (dp - delta);
    if (j < low || j + W > high) {
      const vm inside = mask_and(ge(index, from), lt(index, to));
      kept = select(inside, kept, zero());
      dscore = select(inside, dscore, zero());
    }
    store(p + j, kept);
    store(ds + j, dscore);
  }
  for (int64_t j = columns; j < kKeys; j += W) {
    store(p + j, zero());
    store(ds + j, zero());
  }
}

/** Rows [first, first + count) of P and dS, the first even, as words across rows; dS becomes rows of words. Nothing to do for f32. */
template <bool Half>
HOWDAH_INLINE void to_words(const Workspace& w, int64_t first, int count) {
  if constexpr (Half) {
    for (int i = 0; i < count; i += 2) {
      const int64_t low = (first + i) * kKeys, to = (first + i) / 2 * kKeys;
      for (int64_t j = 0; j < kKeys; j += W) {
        const bool both = i + 1 < count;
        store(w.p_across + to + j, pair_words(load(w.p + low + j), both ? load(w.p + low + kKeys + j) : zero()));
        store(w.ds_across + to + j, pair_words(load(w.ds + low + j), both ? load(w.ds + low + kKeys + j) : zero()));
      }
    }
    for (int i = 0; i < count; i++) row_to_words<true>(w.ds + (first + i) * kKeys, kKeys);
  }
}

/** One tile of queries [t0, t1) (counted from the part's first) against the block of keys at key0. */
template <bool Half>
void grad_tile(const AttentionArgs& a, const Part& part, const Workspace& w, int64_t b, int64_t h, int64_t t0, int64_t t1, int64_t key0,
               int64_t keys) {
  constexpr int64_t per_word = Form<Half>::per_word;
  const int64_t width = pad(a.width), value_width = pad(a.value_width);
  const int64_t q_words = width / per_word, dout_words = value_width / per_word;
  const float slope = a.slopes ? a.slopes[h] : 0;
  bool sees_any = false, sees_all = true;
  for (int64_t i = t0; i < t1; i++) {
    const bool some = w.seen[i].first < key0 + keys && w.seen[i].end > key0 && w.seen[i].first < w.seen[i].end;
    sees_any |= some;
    sees_all &= w.seen[i].first <= key0 && w.seen[i].end >= key0 + keys;
  }
  if (!sees_any) return;
  for (int64_t r0 = t0; r0 < t1; r0 += kTileRows) {
    const int strip = static_cast<int>(std::min<int64_t>(kTileRows, t1 - r0));
    int64_t first = keys, end = 0;
    for (int64_t i = r0; i < r0 + strip; i++) {
      if (w.seen[i].first >= w.seen[i].end) continue;
      first = std::min<int64_t>(first, std::max<int64_t>(0, w.seen[i].first - key0));
      end = std::max<int64_t>(end, std::min<int64_t>(keys, w.seen[i].end - key0));
    }
    float* p = w.p + (r0 - t0) * kKeys;
    float* ds = w.ds + (r0 - t0) * kKeys;
    if (first >= end) {
      std::fill_n(p, strip * kKeys, 0.0f);
      std::fill_n(ds, strip * kKeys, 0.0f);
      to_words<Half>(w, r0 - t0, strip);
      continue;
    }
    const int64_t columns = pad(end);
    strip_product<false, Half>(strip, columns, w.q_rows + r0 * q_words, q_words, w.key_columns, kKeys, Form<Half>::depth(a.width), p, kKeys, false);
    strip_product<false, Half>(strip, columns, w.dout_rows + r0 * dout_words, dout_words, w.value_columns, kKeys, Form<Half>::depth(a.value_width), ds,
                               kKeys, false);
    for (int i = 0; i < strip; i++) {
      const int64_t row = (b * a.heads + h) * a.queries + part.q0 + r0 + i;
      strip_probabilities(a, w, row, r0 + i, key0, columns, slope, p + i * kKeys, ds + i * kKeys);
    }
    to_words<Half>(w, r0 - t0, strip);
    if (part.queries) {
      const int64_t start = first / per_word; // dS before the first key seen is zero
      strip_product<false, Half>(strip, width, ds + start, kKeys, w.keys_across + start * width, width, Form<Half>::depth(end) - start,
                                 w.dq + r0 * width, width, true);
    }
  }
  if (!part.keys) return;
  for (int64_t j = 0; j < keys; j += kTileRows) {
    const int strip = static_cast<int>(std::min<int64_t>(kTileRows, keys - j));
    int64_t low = t0, high = t1; // the queries that see some of these keys
    if (!sees_all) {
      const auto sees = [&](int64_t i) { return w.seen[i].first < key0 + j + strip && w.seen[i].end > key0 + j; };
      while (low < high && !sees(low)) low++;
      while (low < high && !sees(high - 1)) high--;
      if (low == high) continue;
    }
    low /= per_word; // both in words now; rows that do not see the keys hold zeros
    const int64_t count = Form<Half>::depth(high) - low, offset = (low - t0 / per_word) * kKeys + j;
    strip_product<true, Half>(strip, value_width, w.p_across + offset, kKeys, w.dout_across + low * value_width, value_width, count,
                              w.dv + j * value_width, value_width, true);
    strip_product<true, Half>(strip, width, w.ds_across + offset, kKeys, w.q_across + low * width, width, count, w.dk + j * width, width, true);
  }
}

/** `rows` rows of `width` to a strided tensor, times factor; added to what is there if `add`. */
void unpack(const float* from, int64_t rows, int64_t width, float factor, bool add, float* to, int64_t stride) {
  const int64_t padded = pad(width);
  const vf f = splat(factor);
  for (int64_t r = 0; r < rows; r++) {
    for_vectors(width, [&](int64_t c, auto lanes, auto) {
      vf x = load(from + r * padded + c) * f;
      if (add) x = x + load_lanes(to + r * stride + c, lanes);
      store_lanes(to + r * stride + c, x, lanes);
    });
  }
}

/** Gradients of one head. Those of keys and values are added to what earlier heads of the group left, unless it is the first. */
template <bool Half>
void grad_head(const AttentionGradArgs& args, const Part& part, int64_t b, int64_t h, bool first_head) {
  const AttentionArgs& a = args.forward;
  const int64_t g = h / (a.heads / a.groups), n = part.q1 - part.q0;
  const int64_t width = pad(a.width), value_width = pad(a.value_width);
  const Workspace w = carve<Half>(a, part);
  const float* dout = args.dout.data + b * args.dout.batch + part.q0 * args.dout.time + h * args.dout.head;
  with_elements(a.q, b, part.q0, h, [&](auto* q) {
    pack_rows<Half>(q, a.q.time, n, a.width, a.scale, w.q_rows);
    if constexpr (Half) pack_across<Half>(q, a.q.time, n, a.width, a.scale, w.q_across);
  });
  pack_rows<Half>(dout, args.dout.time, n, a.value_width, 1, w.dout_rows);
  if constexpr (Half) pack_across<Half>(dout, args.dout.time, n, a.value_width, 1, w.dout_across);
  int64_t from = a.keys, to = 0;
  for (int64_t i = 0; i < n; i++) {
    const int64_t query = part.q0 + i;
    Chains sum = chains(0);
    with_elements(a.out, b, query, h, [&](auto* out) {
      for_vectors(a.value_width, [&](int64_t c, auto lanes, auto j) {
        sum.lane[j] = fma(load_lanes(out + c, lanes), load_lanes(dout + i * args.dout.time + c, lanes), sum.lane[j]);
      });
    });
    w.delta[i] = total(sum);
    w.lse[i] = a.lse[(b * a.heads + h) * a.queries + query];
    w.seen[i] = w.lse[i] == -__builtin_inff() ? Visible{0, 0} : visible(a, b, query);
    if (w.seen[i].first >= w.seen[i].end) continue;
    from = std::min<int64_t>(from, w.seen[i].first);
    to = std::max<int64_t>(to, w.seen[i].end);
  }
  if (part.queries) std::fill_n(w.dq, n * width, 0.0f);
  for (int64_t key0 = part.k0; key0 < part.k1; key0 += kKeys) {
    const int64_t keys = std::min(kKeys, part.k1 - key0);
    const bool seen = from < key0 + keys && to > key0;
    if (!seen && !part.keys) continue;
    if (part.keys) {
      std::fill_n(w.dk, keys * width, 0.0f);
      std::fill_n(w.dv, keys * value_width, 0.0f);
    }
    if (seen) {
      with_elements(a.k, b, key0, g, [&](auto* k) {
        pack_columns<Half>(k, a.k.time, keys, a.width, w.key_columns, kKeys, w.spare);
        if (part.queries) pack_across<Half>(k, a.k.time, keys, a.width, 1, w.keys_across);
      });
      with_elements(a.v, b, key0, g, [&](auto* v) { pack_columns<Half>(v, a.v.time, keys, a.value_width, w.value_columns, kKeys, w.spare); });
      for (int64_t t = 0; t < n; t += kQueries) grad_tile<Half>(a, part, w, b, h, t, std::min(n, t + kQueries), key0, keys);
    }
    if (part.keys) {
      // Q was packed with the scale in it, so dK has it already.
      unpack(w.dk, keys, a.width, 1, !first_head, args.dk.data + b * args.dk.batch + key0 * args.dk.time + g * args.dk.head, args.dk.time);
      unpack(w.dv, keys, a.value_width, 1, !first_head, args.dv.data + b * args.dv.batch + key0 * args.dv.time + g * args.dv.head, args.dv.time);
    }
  }
  if (part.queries) {
    unpack(w.dq, n, a.width, a.scale, false, args.dq.data + b * args.dq.batch + part.q0 * args.dq.time + h * args.dq.head, args.dq.time);
  }
}

template <bool Half>
void grad_all(const AttentionGradArgs& args) {
  const AttentionArgs& a = args.forward;
  const int64_t pairs = a.batch * a.groups, per_group = a.heads / a.groups;
  if (pairs >= 8 || a.queries * a.keys < 65536) {
    parallel_for(pairs, [&](int64_t pair, int) {
      const int64_t b = pair / a.groups, g = pair % a.groups;
      for (int64_t i = 0; i < per_group; i++) {
        grad_head<Half>(args, {0, a.queries, 0, a.keys, true, true}, b, g * per_group + i, i == 0);
      }
    });
    return;
  }
  // Few pairs: ranges of keys and ranges of queries apart, at the price of computing the scores twice.
  const auto cut = [](int64_t length, int64_t parts, int64_t unit) {
    const int64_t size = (length + parts - 1) / std::max<int64_t>(1, parts);
    return std::max<int64_t>(4 * unit, (size + unit - 1) / unit * unit);
  };
  const int64_t key_chunk = cut(a.keys, 16 / pairs, kKeys), key_chunks = (a.keys + key_chunk - 1) / key_chunk;
  const int64_t heads = a.batch * a.heads;
  const int64_t query_chunk = cut(a.queries, std::max<int64_t>(1, 16 / heads), kQueries);
  const int64_t query_chunks = (a.queries + query_chunk - 1) / query_chunk;
  const int64_t key_tasks = pairs * key_chunks;
  parallel_for(key_tasks + heads * query_chunks, [&](int64_t task, int) {
    if (task < key_tasks) {
      const int64_t pair = task / key_chunks, k0 = task % key_chunks * key_chunk;
      const int64_t b = pair / a.groups, g = pair % a.groups;
      for (int64_t i = 0; i < per_group; i++) {
        grad_head<Half>(args, {0, a.queries, k0, std::min(a.keys, k0 + key_chunk), false, true}, b, g * per_group + i, i == 0);
      }
    } else {
      task -= key_tasks;
      const int64_t head = task / query_chunks, q0 = task % query_chunks * query_chunk;
      grad_head<Half>(args, {q0, std::min(a.queries, q0 + query_chunk), 0, a.keys, true, false}, head / a.heads, head % a.heads, true);
    }
  });
}

} // namespace

void attention_grad(const AttentionGradArgs& args) {
#if HOWDAH_BF16_DOT
  if (args.forward.bf16_compute) return grad_all<true>(args);
#endif
  grad_all<false>(args);
}

} // namespace howdah::HOWDAH_ISA
