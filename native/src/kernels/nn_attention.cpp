// Attention forward: tiles of queries against blocks of keys with a running softmax (Dao et al. 2022, FlashAttention;
// the normaliser after Milakov and Gimelshein 2018).
#include "attention_tiles.hpp"

namespace howdah::HOWDAH_ISA {

namespace {

constexpr int64_t kQueries = 64; // queries that walk the keys together, the lanes of a tile; a multiple of kTileVectors * W
constexpr int64_t kKeys = 96;    // keys per block, a multiple of kTileRows
constexpr float kMinusInf = -__builtin_inff();

/** Packed keys and values of one (batch, group), per block of kKeys: rows of keys, then values across (attention_tiles.hpp). */
struct PackedKeys {
  float* data;
  int64_t key_words, block; // words of a block's keys, and of both
  float* keys(int64_t j) const { return data + j * block; }
  float* values(int64_t j) const { return data + j * block + key_words; }
};

/** Scratch of one task, carved from one allocation. Scores lie as (keys, queries), so that a query is a lane. */
struct Workspace {
  PackedKeys packed;
  float* q;          // columns: (depth of the width, kQueries)
  float* out;        // (kQueries, padded value width)
  float* score;      // (kKeys, kQueries)
  float* keep;       // (kKeys, kQueries), with dropout
  float* spare;      // (kQueries, the larger of padded width and kKeys)
};

/** The running softmax of a tile of queries, by lane. */
struct Softmax {
  Sight<kQueries> sight;
  float top[kQueries];     // largest score so far
  float sum[kQueries];     // sum of exp(score - top)
  float rescale[kQueries]; // what a new top does to sums so far
};

/** How scores become what the softmax is of: unit * score, and ALiBi's slope for each key between it and the query's last. */
struct Scores {
  float unit, slope;
};

/**
 * Turns the scores of W queries (vector v of the tile) against keys key0 + [from, to) into exp(score - top) as words with their depth across
 * keys; those against [0, n) that are not among these are zeros. Updates top and sum. `from` is even.
 */
template <bool Half>
HOWDAH_INLINE void softmax_column(Softmax& rows, int64_t v, float* s, int64_t key0, int64_t from, int64_t to, int64_t n, Scores scores, const float* keep) {
  constexpr int64_t ld = kQueries;
  const Sight<kQueries>& sight = rows.sight;
  float* const rescale = rows.rescale + v * W;
  if (from >= to) {
    store(rescale, splat(1.0f));
    for (int64_t j = 0; j < Form<Half>::depth(n); j++) store(s + j * ld, zero());
    return;
  }
  float unit = scores.unit;
  if (scores.slope != 0 || unit <= 0) {
    // -slope * (end - 1 - j)
    const vf last = to_float(load(sight.end + v * W)) - splat(1.0f);
    for (int64_t j = from; j < to; j++) {
      const vf distance = last - splat(static_cast<float>(key0 + j));
      store(s + j * ld, fma(distance, splat(-scores.slope), load(s + j * ld) * splat(unit)));
    }
    unit = 1;
  }
  if (sight.cuts(v, key0 + from, key0 + to)) {
    for (int64_t j = from; j < to; j++) store(s + j * ld, sight.only_seen(v, key0 + j, load(s + j * ld), splat(kMinusInf)));
  }
  vf best = load(s + from * ld), best2 = best;
  for (int64_t j = from + 1; j + 1 < to; j += 2) best = max(best, load(s + j * ld)), best2 = max(best2, load(s + (j + 1) * ld));
  best = max(max(best, best2), load(s + (to - 1) * ld));
  const vf old = load(rows.top + v * W), top = max(old, best);
  const vf shift = select(eq(top, splat(kMinusInf)), zero(), top); // nothing seen yet, or every score is -inf
  const vf base = splat(unit * kLog2e), offset = -(shift * base);
  const vf factor = exp2_bounded((old - shift) * base);
  store(rows.top + v * W, top);
  store(rescale, factor);
  vf sum = load(rows.sum + v * W) * factor;
  for (int64_t j = from; j < to; j += 2) {
    vf p0 = exp2_bounded(fma(load(s + j * ld), base, offset));
    vf p1 = j + 1 < to ? exp2_bounded(fma(load(s + (j + 1) * ld), base, offset)) : zero();
    sum = sum + (p0 + p1);
    if (keep) {
      p0 = p0 * load(keep + j * ld);
      if (j + 1 < to) p1 = p1 * load(keep + (j + 1) * ld);
    }
    if constexpr (Half) {
      store(s + j / 2 * ld, pair_words(p0, p1));
    } else {
      store(s + j * ld, p0);
      if (j + 1 < to) store(s + (j + 1) * ld, p1);
    }
  }
  store(rows.sum + v * W, sum);
  for (int64_t j = 0; j < from / Form<Half>::per_word; j++) store(s + j * ld, zero());
  for (int64_t j = Form<Half>::depth(to); j < Form<Half>::depth(n); j++) store(s + j * ld, zero());
}

/** `ahead` is fetched beside the products, `pace` rows with each strip. */
template <bool Half>
void attend(const AttentionArgs& a, int64_t b, int64_t h, int64_t q0, int64_t q1, const Workspace& w, int64_t packed_from, RowsAhead& ahead, int64_t pace) {
  constexpr int64_t per_word = Form<Half>::per_word;
  const int64_t key_words = pad(a.width) / per_word, value_width = pad(a.value_width);
  const Scores scores{a.scale, a.slopes ? a.slopes[h] : 0};
  const int64_t count = q1 - q0, vectors = (count + W - 1) / W;
  Softmax rows;
  rows.sight.look(count, [&](int64_t i) { return visible(a, b, q0 + i); });
  int64_t from = a.keys, to = 0;
  for (int64_t v = 0; v < vectors; v++) {
    if (rows.sight.low[v] >= rows.sight.high[v]) continue;
    from = std::min<int64_t>(from, rows.sight.low[v]);
    to = std::max<int64_t>(to, rows.sight.high[v]);
  }
  std::fill_n(rows.top, kQueries, kMinusInf);
  std::fill_n(rows.sum, kQueries, 0.0f);
  std::fill_n(w.out, count * value_width, 0.0f);
  with_elements(a.q, b, q0, h, [&](auto* q) { pack_columns<Half>(q, a.q.time, count, a.width, w.q, kQueries, w.spare); });
  const bool drops = a.dropout_key && a.dropout > 0;
  for (int64_t block = from / kKeys; block * kKeys < to; block++) {
    const int64_t key0 = block * kKeys, n = std::min(kKeys, to - key0);
    const float* keys = w.packed.keys(block - packed_from);
    const float* values = w.packed.values(block - packed_from);
    for (int64_t j = 0; j < n; j += kTileRows) {
      const int strip = static_cast<int>(std::min<int64_t>(kTileRows, n - j));
      const auto range = rows.sight.meeting(vectors, key0 + j, key0 + j + strip);
      if (range.from >= range.to) continue;
      ahead.fetch(pace);
      strip_product<false, Half>(strip, (range.to - range.from) * W, keys + j * key_words, key_words, w.q + range.from * W, kQueries,
                                 Form<Half>::depth(a.width), w.score + j * kQueries + range.from * W, kQueries, false);
    }
    if (drops) keep_columns(a, ((b * a.heads + h) * a.queries + q0) * a.keys, count, key0, n, w.spare, w.keep, kQueries);
    for (int64_t v = 0; v < vectors; v++) {
      // Whole strips: the scores that are there.
      const int64_t first = std::max<int64_t>(0, rows.sight.low[v] - key0) / kTileRows * kTileRows;
      const int64_t last = std::min<int64_t>(n, (rows.sight.high[v] - key0 + kTileRows - 1) / kTileRows * kTileRows);
      const bool meets = rows.sight.meets(v, key0, key0 + n);
      softmax_column<Half>(rows, v, w.score + v * W, key0, meets ? first : 0, meets ? last : 0, n, scores, drops ? w.keep + v * W : nullptr);
    }
    for (int64_t r0 = 0; r0 < count; r0 += kTileRows) {
      const int strip = static_cast<int>(std::min<int64_t>(kTileRows, count - r0));
      const auto seen = rows.sight.keys(r0, strip);
      const int64_t first = std::max<int64_t>(0, seen.from - key0) / per_word, last = Form<Half>::depth(std::min<int64_t>(n, seen.to - key0));
      float* out = w.out + r0 * value_width;
      for (int i = 0; i < strip; i++) {
        if (rows.rescale[r0 + i] == 1) continue;
        const vf factor = splat(rows.rescale[r0 + i]);
        for (int64_t c = 0; c < value_width; c += W) store(out + i * value_width + c, load(out + i * value_width + c) * factor);
      }
      if (seen.from >= key0 + n || first >= last) continue;
      ahead.fetch(pace);
      strip_product<true, Half>(strip, value_width, w.score + first * kQueries + r0, kQueries, values + first * value_width, value_width, last - first,
                                out, value_width, true);
    }
  }
  float* const inverse = rows.rescale;
  for (int64_t v = 0; v < vectors; v++) {
    const vf sum = load(rows.sum + v * W), top = load(rows.top + v * W);
    const vm none = eq(top, splat(kMinusInf));
    store(inverse + v * W, select(none, zero(), splat(1.0f) / sum));
    const vf unit = splat(scores.slope != 0 || a.scale <= 0 ? 1 : a.scale);
    if (a.lse) store_n(a.lse + (b * a.heads + h) * a.queries + q0 + v * W, select(none, top, fma(top, unit, log(sum))), count - v * W);
  }
  for (int64_t i = 0; i < count; i++) {
    const vf factor = splat(inverse[i]);
    const int64_t at = b * a.out.batch + (q0 + i) * a.out.time + h * a.out.head;
    const float* out = w.out + i * value_width;
    const auto write = [&](auto* to_row) {
      for_vectors(a.value_width, [&](int64_t c, auto lanes, auto) { store_lanes(to_row + c, load(out + c) * factor, lanes); });
    };
    if (a.out.bf16) write(reinterpret_cast<bf16_t*>(a.out.data) + at);
    else write(a.out.data + at);
  }
}

/** What fetching ahead may bring into the second-level cache for one pair. */
constexpr int64_t kRowsAhead = 1024;

/** Queries [q0, q1) of one batch and all heads of one group. Meanwhile what the pair `next` (batch and group in one number, or -1) begins with is fetched. */
template <bool Half>
void attend_group(const AttentionArgs& a, int64_t b, int64_t g, int64_t q0, int64_t q1, int64_t next) {
  const int64_t width = pad(a.width), value_width = pad(a.value_width);
  int64_t from = a.keys, to = 0;
  for (int64_t i = q0; i < q1; i++) {
    const Visible seen = visible(a, b, i);
    if (seen.first >= seen.end) continue;
    from = std::min<int64_t>(from, seen.first);
    to = std::max<int64_t>(to, seen.end);
  }
  const int64_t first_block = from < to ? from / kKeys : 0;
  const int64_t blocks = from < to ? (to + kKeys - 1) / kKeys - first_block : 0;
  Workspace w;
  w.packed.key_words = kKeys * width / Form<Half>::per_word;
  w.packed.block = w.packed.key_words + Form<Half>::depth(kKeys) * value_width;
  const int64_t spare = kQueries * std::max(width, pad(kKeys));
  const int64_t fixed = kQueries * (width + value_width + 2 * kKeys) + spare;
  float* memory = scratch(0, static_cast<size_t>(blocks * w.packed.block + fixed) * 4);
  w.q = memory;
  w.out = w.q + kQueries * width;
  w.score = w.out + kQueries * value_width;
  w.keep = w.score + kQueries * kKeys;
  w.spare = w.keep + kQueries * kKeys;
  w.packed.data = w.spare + spare;
  for (int64_t block = 0; block < blocks; block++) {
    const int64_t key0 = (first_block + block) * kKeys, n = std::min(kKeys, a.keys - key0);
    with_elements(a.k, b, key0, g, [&](auto* k) { pack_rows<Half>(k, a.k.time, n, a.width, 1, w.packed.keys(block)); });
    with_elements(a.v, b, key0, g, [&](auto* v) { pack_across<Half>(v, a.v.time, n, a.value_width, 1, w.packed.values(block)); });
  }
  const int64_t per_group = a.heads / a.groups;
  const int64_t count = q1 - q0;
  // Strips of scores and of results; causal attention walks about half of them.
  const int64_t tiles = (count + kQueries - 1) / kQueries, strips = tiles * ((a.keys + kTileRows - 1) / kTileRows + blocks * ((kQueries + kTileRows - 1) / kTileRows));
  for (int64_t h = g * per_group; h < (g + 1) * per_group; h++) {
    RowsAhead ahead;
    const auto add_head = [&](int64_t batch, int64_t head) {
      ahead.add(a.q, batch, q0, head, count, a.width);
      ahead.add(a.out, batch, q0, head, count, a.value_width);
    };
    if (h + 1 < (g + 1) * per_group) {
      if (2 * count <= kRowsAhead) add_head(b, h + 1);
    } else if (next >= 0 && 2 * (a.keys + count) <= kRowsAhead) {
      const int64_t batch = next / a.groups, group = next % a.groups;
      ahead.add(a.k, batch, 0, group, a.keys, a.width);
      ahead.add(a.v, batch, 0, group, a.keys, a.value_width);
      add_head(batch, group * per_group);
    }
    const int64_t pace = (ahead.rows() * (a.causal ? 2 : 1) + strips - 1) / std::max<int64_t>(1, strips);
    for (int64_t q = q0; q < q1; q += kQueries) attend<Half>(a, b, h, q, std::min(q1, q + kQueries), w, first_block, ahead, pace);
  }
}

/** One query at a time straight from the cache of keys and values, for decoding: every key is read once per group. */
void attend_few(const AttentionArgs& a, int64_t b, int64_t g) {
  const int64_t per_group = a.heads / a.groups, value_width = pad(a.value_width);
  for (int64_t i = 0; i < a.queries; i++) {
    const Visible seen = visible(a, b, i);
    const int64_t n = seen.end - seen.first, padded = pad(n);
    float* score = scratch(0, static_cast<size_t>(per_group * (padded + value_width)) * 4 + 64);
    float* out = score + per_group * padded;
    const float* keys = a.k.data + b * a.k.batch + seen.first * a.k.time + g * a.k.head;
    const float* values = a.v.data + b * a.v.batch + seen.first * a.v.time + g * a.v.head;
    const float* query = a.q.data + b * a.q.batch + i * a.q.time + g * per_group * a.q.head;
    for (int64_t j = 0; j < n; j++) {
      const float* key = keys + j * a.k.time;
      for (int64_t h = 0; h < per_group; h++) {
        const float* q = query + h * a.q.head;
        Chains sum = chains(0);
        for_vectors(a.width, [&](int64_t c, auto lanes, auto chain) {
          sum.lane[chain] = fma(load_lanes(q + c, lanes), load_lanes(key + c, lanes), sum.lane[chain]);
        });
        score[h * padded + j] = total(sum) * a.scale;
      }
    }
    for (int64_t h = 0; h < per_group; h++) {
      const int64_t head = g * per_group + h, row = (b * a.heads + head) * a.queries + i;
      float* s = score + h * padded;
      if (a.slopes) {
        for (int64_t j = 0; j < n; j++) s[j] -= a.slopes[head] * static_cast<float>(n - 1 - j);
      }
      float top = kMinusInf;
      for_vectors(n, [&](int64_t j, auto lanes, auto) {
        top = std::max(top, reduce_max(only_lanes(load_lanes(s + j, lanes), splat(kMinusInf), lanes)));
      });
      Chains sum = chains(0);
      for_vectors(n, [&](int64_t j, auto lanes, auto chain) {
        vf p = exp_bounded(load_lanes(s + j, lanes) - splat(top));
        p = only_lanes(p, zero(), lanes);
        store_lanes(s + j, p, lanes);
        sum.lane[chain] = sum.lane[chain] + p;
      });
      const bool any_seen = top != kMinusInf;
      const float denominator = total(sum);
      if (a.lse) a.lse[row] = any_seen ? top + std::log(denominator) : kMinusInf;
      const float factor = any_seen ? 1.0f / denominator : 0.0f;
      if (a.dropout_key && a.dropout > 0) {
        float keep[256];
        for (int64_t j = 0; j < n; j += 256) {
          const int64_t m = std::min<int64_t>(256, n - j);
          keep_factors(a, row * a.keys + seen.first + j, m, keep);
          for (int64_t x = 0; x < m; x++) s[j + x] *= keep[x];
        }
      }
      for (int64_t j = 0; j < n; j++) s[j] = any_seen ? s[j] * factor : 0.0f;
    }
    std::fill_n(out, per_group * value_width, 0.0f);
    for (int64_t j = 0; j < n; j++) {
      const float* value = values + j * a.v.time;
      for (int64_t h = 0; h < per_group; h++) {
        const vf p = splat(score[h * padded + j]);
        float* o = out + h * value_width;
        for_vectors(a.value_width, [&](int64_t c, auto lanes, auto) { store(o + c, fma(p, load_lanes(value + c, lanes), load(o + c))); });
      }
    }
    for (int64_t h = 0; h < per_group; h++) {
      float* to = a.out.data + b * a.out.batch + i * a.out.time + (g * per_group + h) * a.out.head;
      std::memcpy(to, out + h * value_width, static_cast<size_t>(a.value_width) * 4);
    }
  }
}

} // namespace

void attention(const AttentionArgs& a) {
  if (a.queries <= 2) {
    parallel_for(a.batch * a.groups, [&](int64_t task, int) { attend_few(a, task / a.groups, task % a.groups); });
    return;
  }
  // Enough tasks for a handful of threads; keys are packed once per task, so a task has many queries.
  const int64_t pairs = a.batch * a.groups;
  const int64_t wanted = std::max<int64_t>(1, 16 / std::max<int64_t>(1, pairs));
  int64_t chunk = std::max<int64_t>((a.queries + wanted - 1) / wanted, 4 * kQueries);
  chunk = (chunk + kQueries - 1) / kQueries * kQueries;
  const int64_t chunks = (a.queries + chunk - 1) / chunk;
  // Pairs of one task follow one another, so that the rows of the next are fetched while one is multiplied.
  const int64_t at_once = chunks > 1 ? 1 : std::clamp<int64_t>(pairs / 32, 1, 8), groups = (pairs + at_once - 1) / at_once;
  parallel_for(groups * chunks, [&](int64_t task, int) {
    const int64_t first = task / chunks * at_once, last = std::min(pairs, first + at_once);
    const int64_t q0 = (chunks - 1 - task % chunks) * chunk; // the long rows of causal attention first
    const int64_t q1 = std::min(a.queries, q0 + chunk);
    for (int64_t pair = first; pair < last; pair++) {
      const int64_t b = pair / a.groups, g = pair % a.groups, next = pair + 1 < last ? pair + 1 : -1;
#if HOWDAH_BF16_DOT
      if (a.bf16_compute) {
        attend_group<true>(a, b, g, q0, q1, next);
        continue;
      }
#endif
      attend_group<false>(a, b, g, q0, q1, next);
    }
  });
}

} // namespace howdah::HOWDAH_ISA
