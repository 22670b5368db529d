// Attention backward: probabilities are computed again from the saved log-sum-exp, tile by tile (Dao et al. 2022, FlashAttention).
// With P = exp(S - lse), S = scale Q K^T and delta = rowsum(dO * O):
//   dV = P^T dO,  dP = dO V^T,  dS = P * (dP - delta),  dQ = scale dS K,  dK = scale dS^T Q.
#include "attention_tiles.hpp"

namespace howdah::HOWDAH_ISA {

namespace {

constexpr int64_t kQueries = 192; // queries per tile, its lanes; a multiple of kTileVectors * W
constexpr int64_t kKeys = 192;    // keys per block, a multiple of kTileRows

/** What one call computes: gradients of the keys and values of a range, of a range of queries, or of both at once. */
struct Part {
  int64_t q0, q1, k0, k1;
  bool queries, keys;
};

/** Per tile of queries of the part. */
struct Queries {
  int64_t count;
  Sight<kQueries> sight;
  float delta[kQueries], lse[kQueries]; // lse in units of ln 2; zeros beyond count
};

/** Operands are words in the forms of attention_tiles.hpp; sums are f32. Scores lie as (keys, queries), so that a query is a lane. */
struct Workspace {
  // Per tile of queries of the part.
  Queries* tiles;
  float *q_columns, *dout_columns; // (depth of the width, kQueries)
  float *q_across, *dout_across;   // (depth of kQueries, padded width)
  float* dq;                       // (kQueries, padded width)
  // Per block of keys.
  float *key_rows, *value_rows; // depth along the row
  float* keys_across;           // (depth of kKeys, padded width)
  float *dk, *dv;               // (kKeys, padded width)
  // Per block of keys and tile of queries.
  float* ds_across; // (depth of kKeys, kQueries)
  float* keep;      // (kKeys, kQueries), with dropout
  // Per strip of keys.
  float *score, *dp; // (kTileRows, kQueries)
  float *p, *ds;     // the same as words with their depth along queries; ds lies in ds_across when a word is one number
  float* spare;      // (kQueries, the larger padded width and kKeys)
};

template <bool Half>
Workspace carve(const AttentionArgs& a, const Part& part) {
  constexpr int64_t per_word = Form<Half>::per_word;
  const int64_t tiles = (part.q1 - part.q0 + kQueries - 1) / kQueries, width = pad(a.width), value_width = pad(a.value_width);
  const int64_t both = width + value_width, tile_words = (static_cast<int64_t>(sizeof(Queries)) + 63) / 64 * 16;
  const int64_t spare = std::max(kQueries, kKeys) * std::max({width, value_width, pad(kKeys)});
  const int64_t per_tile = tile_words + kQueries * (2 * both + width);
  const int64_t per_block = kKeys * (2 * both + width), fixed = per_block + 2 * kKeys * kQueries + 4 * kTileRows * kQueries + spare;
  float* next = scratch(0, static_cast<size_t>(tiles * per_tile + fixed) * 4);
  const auto take = [&](int64_t count) {
    float* p = next;
    next += count;
    return p;
  };
  Workspace w;
  w.tiles = reinterpret_cast<Queries*>(take(tiles * tile_words));
  w.q_columns = take(tiles * width * kQueries / per_word);
  w.dout_columns = take(tiles * value_width * kQueries / per_word);
  w.q_across = take(tiles * width * kQueries / per_word);
  w.dout_across = take(tiles * value_width * kQueries / per_word);
  w.dq = take(tiles * width * kQueries);
  w.key_rows = take(width * kKeys / per_word);
  w.value_rows = take(value_width * kKeys / per_word);
  w.keys_across = take(width * kKeys / per_word);
  w.dk = take(kKeys * width);
  w.dv = take(kKeys * value_width);
  w.ds_across = take(kKeys * kQueries / per_word);
  w.keep = take(kKeys * kQueries);
  w.score = take(kTileRows * kQueries);
  w.dp = take(kTileRows * kQueries);
  w.p = take(kTileRows * kQueries / per_word);
  w.ds = take(kTileRows * kQueries / per_word);
  w.spare = take(spare);
  return w;
}

/** What a strip's probabilities are made of: exp(unit * score + slope * (key - last key seen) - lse). */
struct Scores {
  float unit, slope;
};

/**
 * P and dS of `rows` keys from `key` on and vector v of the queries, from their scores and dP: words along queries to p and ds, words across
 * keys to ds_across. All pointers are at vector v.
 */
template <bool Half>
HOWDAH_INLINE void probabilities(const Queries& queries, int64_t v, int64_t key, int rows, Scores scores, const float* score, const float* dp, const float* keep,
                                 float* p, float* ds, float* ds_across) {
  constexpr int64_t ld = kQueries, words = kQueries / Form<Half>::per_word;
  const vf unit = splat(scores.unit * kLog2e), delta = load(queries.delta + v * W);
  vf base = load(queries.lse + v * W);
  const vf slope = splat(scores.slope * kLog2e);
  if (scores.slope != 0) base = fma(to_float(load(queries.sight.end + v * W)) - splat(1.0f), slope, base);
  const bool cuts = queries.sight.cuts(v, key, key + rows);
  const auto one = [&](int i, vf& ds_i) {
    vf shift = base;
    if (scores.slope != 0) shift = shift - splat(static_cast<float>(key + i)) * slope;
    vf kept = exp2_bounded(fma(load(score + i * ld), unit, -shift));
    vf gradient = load(dp + i * ld);
    const vf probability = kept;
    if (keep) {
      const vf factor = load(keep + i * ld);
      kept = kept * factor;
      gradient = gradient * factor;
    }
    ds_i = probability * (gradient - delta);
    if (cuts) {
      kept = queries.sight.only_seen(v, key + i, kept, zero());
      ds_i = queries.sight.only_seen(v, key + i, ds_i, zero());
    }
    if constexpr (Half) {
      store_bf16(reinterpret_cast<bf16_t*>(p + i * words), kept);
      store_bf16(reinterpret_cast<bf16_t*>(ds + i * words), ds_i);
    } else {
      store(p + i * words, kept);
      store(ds_across + i * ld, ds_i);
    }
  };
  for (int i = 0; i < rows; i += 2) {
    vf low, high = zero();
    one(i, low);
    if (i + 1 < rows) one(i + 1, high);
    if constexpr (Half) store(ds_across + i / 2 * ld, pair_words(low, high));
  }
}

/** Tile t of the part's queries against the block of keys at key0. */
template <bool Half>
void grad_tile(const AttentionArgs& a, const Part& part, const Workspace& w, int64_t b, int64_t h, int64_t t, int64_t key0, int64_t keys) {
  constexpr int64_t per_word = Form<Half>::per_word, words = kQueries / per_word;
  const int64_t width = pad(a.width), value_width = pad(a.value_width);
  const Queries& queries = w.tiles[t];
  const Sight<kQueries>& sight = queries.sight;
  const int64_t vectors = (queries.count + W - 1) / W, all_words = Form<Half>::depth(queries.count);
  const auto tile = sight.meeting(vectors, key0, key0 + keys);
  if (tile.from >= tile.to) return;
  const float* q_columns = w.q_columns + t * width * words;
  const float* dout_columns = w.dout_columns + t * value_width * words;
  const float* q_across = w.q_across + t * width * words;
  const float* dout_across = w.dout_across + t * value_width * words;
  const Scores scores{a.scale, a.slopes ? a.slopes[h] : 0};
  const bool drops = a.dropout_key && a.dropout > 0;
  if (drops) {
    const int64_t row = ((b * a.heads + h) * a.queries + part.q0 + t * kQueries) * a.keys;
    keep_columns(a, row, queries.count, key0, keys, w.spare, w.keep, kQueries);
  }
  for (int64_t j = 0; j < keys; j += kTileRows) {
    const int strip = static_cast<int>(std::min<int64_t>(kTileRows, keys - j));
    float* ds_across = w.ds_across + j / per_word * kQueries;
    const auto range = sight.meeting(vectors, key0 + j, key0 + j + strip);
    const int64_t first = range.from * W, columns = (range.to - range.from) * W;
    if (part.queries) { // the others have no part in these keys
      for (int64_t v = 0; v < vectors; v++) {
        if (v >= range.from && v < range.to) continue;
        for (int64_t i = 0; i < Form<Half>::depth(strip); i++) store(ds_across + i * kQueries + v * W, zero());
      }
    }
    if (columns <= 0) continue;
    strip_product<false, Half>(strip, columns, w.key_rows + j * width / per_word, width / per_word, q_columns + first, kQueries, Form<Half>::depth(a.width),
                               w.score + first, kQueries, false);
    strip_product<false, Half>(strip, columns, w.value_rows + j * value_width / per_word, value_width / per_word, dout_columns + first, kQueries,
                               Form<Half>::depth(a.value_width), w.dp + first, kQueries, false);
    for (int64_t v = range.from; v < range.to; v++) {
      probabilities<Half>(queries, v, key0 + j, strip, scores, w.score + v * W, w.dp + v * W, drops ? w.keep + j * kQueries + v * W : nullptr,
                          w.p + v * W / per_word, w.ds + v * W / per_word, ds_across + v * W);
    }
    if (!part.keys) continue;
    const int64_t from = first / per_word, depth = std::min(all_words, from + columns / per_word) - from;
    const float* ds = Half ? w.ds : ds_across;
    strip_product<false, Half>(strip, value_width, w.p + from, words, dout_across + from * value_width, value_width, depth, w.dv + j * value_width,
                               value_width, true);
    strip_product<false, Half>(strip, width, ds + from, words, q_across + from * width, width, depth, w.dk + j * width, width, true);
  }
  if (!part.queries) return;
  for (int64_t r = tile.from * W / kTileRows * kTileRows; r < queries.count; r += kTileRows) {
    const int strip = static_cast<int>(std::min<int64_t>(kTileRows, queries.count - r));
    const auto seen = sight.keys(r, strip);
    if (seen.from >= key0 + keys || seen.to <= key0) continue;
    const int64_t from = std::max<int64_t>(0, seen.from - key0) / per_word, to = Form<Half>::depth(std::min<int64_t>(keys, seen.to - key0));
    strip_product<true, Half>(strip, width, w.ds_across + from * kQueries + r, kQueries, w.keys_across + from * width, width, to - from,
                              w.dq + (t * kQueries + r) * width, width, true);
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

/** Packs the part's queries and the gradients of their results, tile by tile; says which keys they see. */
template <bool Half>
Sight<kQueries>::Range pack_queries(const AttentionGradArgs& args, const Part& part, const Workspace& w, int64_t b, int64_t h) {
  const AttentionArgs& a = args.forward;
  constexpr int64_t words = kQueries / Form<Half>::per_word;
  const int64_t n = part.q1 - part.q0, width = pad(a.width), value_width = pad(a.value_width);
  Sight<kQueries>::Range all{a.keys, 0};
  for (int64_t t = 0; t * kQueries < n; t++) {
    const int64_t query = part.q0 + t * kQueries, count = std::min(kQueries, part.q1 - query);
    Queries& queries = w.tiles[t];
    const float* dout = args.dout.data + b * args.dout.batch + query * args.dout.time + h * args.dout.head;
    const float* lse = a.lse + (b * a.heads + h) * a.queries + query;
    with_elements(a.q, b, query, h, [&](auto* q) {
      pack_columns<Half>(q, a.q.time, count, a.width, w.q_columns + t * width * words, kQueries, w.spare);
      pack_across<Half>(q, a.q.time, count, a.width, 1, w.q_across + t * width * words);
    });
    pack_columns<Half>(dout, args.dout.time, count, a.value_width, w.dout_columns + t * value_width * words, kQueries, w.spare);
    pack_across<Half>(dout, args.dout.time, count, a.value_width, 1, w.dout_across + t * value_width * words);
    queries.count = count;
    std::fill_n(queries.delta, kQueries, 0.0f);
    std::fill_n(queries.lse, kQueries, 0.0f);
    for (int64_t i = 0; i < count; i++) {
      Chains sum = chains(0);
      with_elements(a.out, b, query + i, h, [&](auto* out) {
        for_vectors(a.value_width, [&](int64_t c, auto lanes, auto j) {
          sum.lane[j] = fma(load_lanes(out + c, lanes), load_lanes(dout + i * args.dout.time + c, lanes), sum.lane[j]);
        });
      });
      queries.delta[i] = total(sum);
      queries.lse[i] = lse[i] == -__builtin_inff() ? 0 : lse[i] * kLog2e;
    }
    queries.sight.look(count, [&](int64_t i) { return lse[i] == -__builtin_inff() ? Visible{0, 0} : visible(a, b, query + i); });
    for (int64_t v = 0; v * W < count; v++) {
      if (queries.sight.low[v] >= queries.sight.high[v]) continue;
      all = {std::min<int64_t>(all.from, queries.sight.low[v]), std::max<int64_t>(all.to, queries.sight.high[v])};
    }
  }
  return all;
}

/** Gradients of one head. Those of keys and values are added to what earlier heads of the group left, unless it is the first. */
template <bool Half>
void grad_head(const AttentionGradArgs& args, const Part& part, int64_t b, int64_t h, bool first_head) {
  const AttentionArgs& a = args.forward;
  const int64_t g = h / (a.heads / a.groups), n = part.q1 - part.q0;
  const int64_t width = pad(a.width), value_width = pad(a.value_width);
  const Workspace w = carve<Half>(a, part);
  const auto all = pack_queries<Half>(args, part, w, b, h);
  if (part.queries) std::fill_n(w.dq, n * width, 0.0f);
  for (int64_t key0 = part.k0; key0 < part.k1; key0 += kKeys) {
    const int64_t keys = std::min(kKeys, part.k1 - key0);
    const bool seen = all.from < key0 + keys && all.to > key0;
    if (!seen && !part.keys) continue;
    if (part.keys) {
      std::fill_n(w.dk, keys * width, 0.0f);
      std::fill_n(w.dv, keys * value_width, 0.0f);
    }
    if (seen) {
      with_elements(a.k, b, key0, g, [&](auto* k) {
        pack_rows<Half>(k, a.k.time, keys, a.width, 1, w.key_rows);
        if (part.queries) pack_across<Half>(k, a.k.time, keys, a.width, 1, w.keys_across);
      });
      with_elements(a.v, b, key0, g, [&](auto* v) { pack_rows<Half>(v, a.v.time, keys, a.value_width, 1, w.value_rows); });
      for (int64_t t = 0; t * kQueries < n; t++) grad_tile<Half>(a, part, w, b, h, t, key0, keys);
    }
    if (part.keys) {
      unpack(w.dk, keys, a.width, a.scale, !first_head, args.dk.data + b * args.dk.batch + key0 * args.dk.time + g * args.dk.head, args.dk.time);
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
