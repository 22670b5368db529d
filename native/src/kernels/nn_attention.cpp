// Attention forward: tiles of queries against blocks of keys with a running softmax (Dao et al. 2022, FlashAttention;
// the normaliser after Milakov and Gimelshein 2018).
#include "attention_tiles.hpp"

namespace howdah::HOWDAH_ISA {

namespace {

constexpr int64_t kQueries = 8 * kTileRows; // queries that walk the keys together
constexpr int64_t kKeys = 128;              // keys per block
constexpr float kMinusInf = -__builtin_inff();

/** Packed keys and values of one (batch, group), per block of kKeys: columns of keys, then values across (attention_tiles.hpp). */
struct PackedKeys {
  float* data;
  int64_t key_words, block; // words of a block's keys, and of both
  float* keys(int64_t j) const { return data + j * block; }
  float* values(int64_t j) const { return data + j * block + key_words; }
};

/** Per-row state of a tile of queries. */
struct Rows {
  Visible seen[kQueries];
  float top[kQueries];        // largest score so far
  float sum[kQueries * W];    // running sum of exp(score - top), by lane
  float rescale[kQueries];    // what a new top does to sums so far
};

/**
 * Turns scores of one row against keys [key0, key0 + n) into exp(score - top), zero where unseen, and updates top and sum.
 * `width` is n padded to whole vectors. Returns false if the row sees none of them (the scores are then zeros).
 */
HOWDAH_INLINE bool softmax_row(Rows& rows, int64_t row, float* s, int64_t key0, int64_t n, int64_t width, float slope) {
  const Visible seen = rows.seen[row];
  rows.rescale[row] = 1;
  const int64_t low = std::max<int64_t>(0, seen.first - key0), high = std::min<int64_t>(n, seen.end - key0);
  if (low >= high) {
    std::fill_n(s, width, 0.0f);
    return false;
  }
  if (slope != 0) {
    // -slope * (end - 1 - j)
    const vf base = splat(-slope * static_cast<float>(seen.end - 1 - key0));
    const vf step = splat(slope);
    for (int64_t j = 0; j < width; j += W) {
      const vf index = to_float(iota() + splat_i(static_cast<int32_t>(j)));
      store(s + j, load(s + j) + fma(index, step, base));
    }
  }
  if (low > 0 || high < width) {
    const vi from = splat_i(static_cast<int32_t>(low)), to = splat_i(static_cast<int32_t>(high));
    for (int64_t j = 0; j < width; j += W) {
      const vi index = iota() + splat_i(static_cast<int32_t>(j));
      store(s + j, select(mask_and(ge(index, from), lt(index, to)), load(s + j), splat(kMinusInf)));
    }
  }
  vf best = load(s);
  for (int64_t j = W; j < width; j += W) best = max(best, load(s + j));
  const float old = rows.top[row], top = std::max(old, reduce_max(best));
  if (top == kMinusInf) { // every score seen is -inf
    std::fill_n(s, width, 0.0f);
    return false;
  }
  vf sum = load(rows.sum + row * W);
  if (top > old) {
    rows.top[row] = top;
    if (old != kMinusInf) { // else there is nothing yet
      rows.rescale[row] = std::exp(old - top);
      sum = sum * splat(rows.rescale[row]);
    }
  }
  const vf shift = splat(top);
  for (int64_t j = 0; j < width; j += W) {
    const vf p = exp_bounded(load(s + j) - shift);
    store(s + j, p);
    sum = sum + p;
  }
  store(rows.sum + row * W, sum);
  return true;
}

/** Scratch of one task, carved from one allocation. */
struct Workspace {
  PackedKeys packed;
  float* q;     // (kQueries, padded width), as words
  float* out;   // (kQueries, padded value width)
  float* score; // (kTileRows, kKeys)
  float* keep;  // (kKeys)
  float* spare; // (kKeys, padded width)
};

template <bool Half>
void attend(const AttentionArgs& a, int64_t b, int64_t h, int64_t q0, int64_t q1, const Workspace& w, int64_t packed_from) {
  constexpr int64_t per_word = Form<Half>::per_word;
  const int64_t q_words = pad(a.width) / per_word, value_width = pad(a.value_width);
  const float slope = a.slopes ? a.slopes[h] : 0;
  Rows rows;
  const int64_t count = q1 - q0;
  int64_t from = a.keys, to = 0;
  for (int64_t i = 0; i < count; i++) {
    const Visible seen = rows.seen[i] = visible(a, b, q0 + i);
    rows.top[i] = kMinusInf;
    if (seen.first >= seen.end) continue;
    from = std::min<int64_t>(from, seen.first);
    to = std::max<int64_t>(to, seen.end);
  }
  std::fill_n(rows.sum, count * W, 0.0f);
  std::fill_n(w.out, count * value_width, 0.0f);
  with_elements(a.q, b, q0, h, [&](auto* q) { pack_rows<Half>(q, a.q.time, count, a.width, a.scale, w.q); });
  const bool drops = a.dropout_key && a.dropout > 0;
  for (int64_t block = from / kKeys; block * kKeys < to; block++) {
    const int64_t key0 = block * kKeys;
    const float* keys = w.packed.keys(block - packed_from);
    const float* values = w.packed.values(block - packed_from);
    for (int64_t r0 = 0; r0 < count; r0 += kTileRows) {
      const int strip = static_cast<int>(std::min<int64_t>(kTileRows, count - r0));
      // Keys of this block that some row of the strip sees.
      int64_t end = 0, first = kKeys;
      for (int64_t i = r0; i < r0 + strip; i++) {
        if (rows.seen[i].first >= rows.seen[i].end) continue;
        end = std::max<int64_t>(end, std::min<int64_t>(kKeys, rows.seen[i].end - key0));
        first = std::min<int64_t>(first, std::max<int64_t>(0, rows.seen[i].first - key0));
      }
      if (first >= end) continue;
      const int64_t columns = pad(end);
      strip_product<false, Half>(strip, columns, w.q + r0 * q_words, q_words, keys, kKeys, Form<Half>::depth(a.width), w.score, kKeys, false);
      bool any_row = false;
      for (int i = 0; i < strip; i++) any_row |= softmax_row(rows, r0 + i, w.score + i * kKeys, key0, end, columns, slope);
      if (!any_row) continue;
      if (drops) {
        for (int i = 0; i < strip; i++) {
          const int64_t row = ((b * a.heads + h) * a.queries + q0 + r0 + i) * a.keys;
          keep_factors(a, row + key0, end, w.keep);
          for (int64_t j = 0; j < end; j++) w.score[i * kKeys + j] *= w.keep[j];
        }
      }
      float* out = w.out + r0 * value_width;
      for (int i = 0; i < strip; i++) {
        if (rows.rescale[r0 + i] == 1) continue;
        const vf factor = splat(rows.rescale[r0 + i]);
        for (int64_t c = 0; c < value_width; c += W) store(out + i * value_width + c, load(out + i * value_width + c) * factor);
      }
      for (int i = 0; i < strip; i++) row_to_words<Half>(w.score + i * kKeys, columns);
      const int64_t start = first / per_word; // probabilities before the first key seen are zeros
      strip_product<false, Half>(strip, value_width, w.score + start, kKeys, values + start * value_width, value_width,
                                 Form<Half>::depth(end) - start, out, value_width, true);
    }
  }
  for (int64_t i = 0; i < count; i++) {
    const float sum = reduce_add(load(rows.sum + i * W));
    const bool seen = rows.top[i] != kMinusInf;
    if (a.lse) a.lse[(b * a.heads + h) * a.queries + q0 + i] = seen ? rows.top[i] + std::log(sum) : kMinusInf;
    const vf factor = splat(seen ? 1.0f / sum : 0.0f);
    const int64_t at = b * a.out.batch + (q0 + i) * a.out.time + h * a.out.head;
    const float* out = w.out + i * value_width;
    const auto write = [&](auto* to_row) {
      for_vectors(a.value_width, [&](int64_t c, auto lanes, auto) { store_lanes(to_row + c, load(out + c) * factor, lanes); });
    };
    if (a.out.bf16) write(reinterpret_cast<bf16_t*>(a.out.data) + at);
    else write(a.out.data + at);
  }
}

/** Queries [q0, q1) of one batch and all heads of one group. */
template <bool Half>
void attend_group(const AttentionArgs& a, int64_t b, int64_t g, int64_t q0, int64_t q1) {
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
  w.packed.key_words = Form<Half>::depth(a.width) * kKeys;
  w.packed.block = w.packed.key_words + Form<Half>::depth(kKeys) * value_width;
  const int64_t fixed = kQueries * (width + value_width) + (kTileRows + 1) * kKeys + kKeys * width;
  float* memory = scratch(0, static_cast<size_t>(blocks * w.packed.block + fixed) * 4);
  w.q = memory;
  w.out = w.q + kQueries * width;
  w.score = w.out + kQueries * value_width;
  w.keep = w.score + kTileRows * kKeys;
  w.spare = w.keep + kKeys;
  w.packed.data = w.spare + kKeys * width;
  for (int64_t block = 0; block < blocks; block++) {
    const int64_t key0 = (first_block + block) * kKeys, n = std::min(kKeys, a.keys - key0);
    with_elements(a.k, b, key0, g, [&](auto* k) { pack_columns<Half>(k, a.k.time, n, a.width, w.packed.keys(block), kKeys, w.spare); });
    with_elements(a.v, b, key0, g, [&](auto* v) { pack_across<Half>(v, a.v.time, n, a.value_width, 1, w.packed.values(block)); });
  }
  const int64_t per_group = a.heads / a.groups;
  for (int64_t h = g * per_group; h < (g + 1) * per_group; h++) {
    for (int64_t q = q0; q < q1; q += kQueries) attend<Half>(a, b, h, q, std::min(q1, q + kQueries), w, first_block);
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
  parallel_for(pairs * chunks, [&](int64_t task, int) {
    const int64_t pair = task / chunks;
    const int64_t q0 = (chunks - 1 - task % chunks) * chunk; // the long rows of causal attention first
    const int64_t q1 = std::min(a.queries, q0 + chunk);
#if HOWDAH_BF16_DOT
    if (a.bf16_compute) return attend_group<true>(a, pair / a.groups, pair % a.groups, q0, q1);
#endif
    attend_group<false>(a, pair / a.groups, pair % a.groups, q0, q1);
  });
}

} // namespace howdah::HOWDAH_ISA
