// Attention over keys and values in pages (Kwon et al. 2023, "PagedAttention"), and the writing of pages.
//
// A page holds its keys as columns, (width, page), and its values as rows, (page, width): the layouts in which the two products of
// attention read their second operand in order. So nothing is packed for decoding, and one query's heads of a group (rows of one tile)
// share each load of a key. Keys are walked in segments of a fixed length whose results are combined in order; so a row's bits depend
// neither on the threads, nor on whether its segments were computed together or apart, nor on which other rows were in the batch.
#include <vector>

#include "attention_tiles.hpp"
#include "paged.hpp"

namespace howdah::HOWDAH_ISA {

namespace {

constexpr float kMinusInf = -__builtin_inff();
constexpr int64_t kSegmentKeys = 256;
constexpr int64_t kTaskRows = 64 * kTileRows; // rows (tokens times heads of a group) that walk the keys together
constexpr int64_t kManyRows = 4 * kTileRows;  // from here on, a page is converted once and used often

typedef int8_t v8 __attribute__((vector_size(W)));

HOWDAH_INLINE vf load_as(const float* p) { return load(p); }
HOWDAH_INLINE vf load_as(const bf16_t* p) { return bf16_to_f32(load_h(p)); }
HOWDAH_INLINE vf load_as(const int8_t* p) {
  v8 x;
  std::memcpy(&x, p, sizeof x);
  return __builtin_convertvector(x, vf);
}
HOWDAH_INLINE float one_as(float x) { return x; }
HOWDAH_INLINE float one_as(bf16_t x) { return bf16_to_f32(x); }
HOWDAH_INLINE float one_as(int8_t x) { return static_cast<float>(x); }
/** The first n lanes, the others 0. */
template <class T>
HOWDAH_INLINE vf load_as(const T* p, int64_t n) {
  if (n >= W) return load_as(p);
  float lanes[W] = {};
  for (int64_t i = 0; i < n; i++) lanes[i] = one_as(p[i]);
  return load(lanes);
}

/**
 * C (R, V*W) = [C +] A (R, k) B (k, V*W): tile_product with a second operand of another storage, converted as it is loaded. Meanwhile the rows of
 * the matrix that is read next, `ahead`, come into the cache: with few rows of A, reading is what takes the time.
 */
template <int R, int V, class T>
void stored_product(const float* a, int64_t lda, const T* b, int64_t ldb, int64_t k, float* c, int64_t ldc, bool add, const T* ahead) {
  vf sum[R][V];
HOWDAH_UNROLL
  for (int r = 0; r < R; r++) {
HOWDAH_UNROLL
    for (int v = 0; v < V; v++) sum[r][v] = add ? load(c + r * ldc + v * W) : zero();
  }
  for (int64_t i = 0; i < k; i++) {
    vf row[V];
HOWDAH_UNROLL
    for (int v = 0; v < V; v++) row[v] = load_as(b + v * W);
    if (ahead) {
      for (int64_t line = 0; line < V * W * static_cast<int64_t>(sizeof(T)); line += 64)
        __builtin_prefetch(reinterpret_cast<const char*>(ahead) + line);
      ahead += V * W;
    }
HOWDAH_UNROLL
    for (int r = 0; r < R; r++) {
      const vf number = splat(a[r * lda]);
HOWDAH_UNROLL
      for (int v = 0; v < V; v++) sum[r][v] = fma(number, row[v], sum[r][v]);
    }
    a += 1;
    b += ldb;
  }
HOWDAH_UNROLL
  for (int r = 0; r < R; r++) {
HOWDAH_UNROLL
    for (int v = 0; v < V; v++) store(c + r * ldc + v * W, sum[r][v]);
  }
}

template <class T>
using StoredProduct = void (*)(const float*, int64_t, const T*, int64_t, int64_t, float*, int64_t, bool, const T*);

template <class T, int R, int V>
constexpr StoredProduct<T> pick_stored(int rows, int vectors) {
  if constexpr (R > 1) {
    if (rows < R) return pick_stored<T, R - 1, V>(rows, vectors);
  }
  if constexpr (V > 1) {
    if (vectors < V) return pick_stored<T, R, V - 1>(rows, vectors);
  }
  return stored_product<R, V, T>;
}

template <class T>
struct StoredTable {
  StoredProduct<T> entry[kTileRows + 1][kTileVectors + 1] = {};
  constexpr StoredTable() {
    for (int r = 1; r <= kTileRows; r++)
      for (int v = 1; v <= kTileVectors; v++) entry[r][v] = pick_stored<T, kTileRows, kTileVectors>(r, v);
  }
};
template <class T>
inline constexpr StoredTable<T> stored_table;

template <class T>
HOWDAH_INLINE void stored_strip(int rows, int64_t columns, const float* a, int64_t lda, const T* b, int64_t ldb, int64_t k, float* c,
                                int64_t ldc, bool add, const T* ahead) {
  for (int64_t j = 0; j < columns; j += kTileVectors * W) {
    const int vectors = static_cast<int>(std::min<int64_t>(kTileVectors, (columns - j) / W));
    stored_table<T>.entry[rows][vectors](a, lda, b + j, ldb, k, c + j, ldc, add, ahead);
    if (ahead) ahead += k * vectors * W;
  }
}

/** (rows, columns) at `stride` becomes words of the form with the depth across rows: (depth(rows), pad(columns)); padding is zeros. */
template <bool Half, class T>
void convert_across(const T* from, int64_t stride, int64_t rows, int64_t columns, float* to) {
  constexpr int64_t step = Form<Half>::per_word;
  for (int64_t r = 0; r < rows; r += step) {
    const T* x = from + r * stride;
    for (int64_t i = 0; i < pad(columns); i += W) {
      const vf low = load_as(x + i, columns - i);
      if constexpr (Half) store(to + i, pair_words(low, r + 1 < rows ? load_as(x + stride + i, columns - i) : zero()));
      else store(to + i, low);
    }
    to += pad(columns);
  }
}

/** Consecutive tokens of one sequence. */
struct Run {
  int64_t token, count;
  const int32_t* pages; // its row of the table
  int64_t position;     // of the first token
};

/** Some tokens of a run, one group of heads, some segments of the keys. */
struct Task {
  const Run* run;
  int64_t from, to; // tokens within the run
  int64_t group;
  int64_t first_segment, last_segment;
  int64_t part; // where the result of a single segment goes among the parts, or -1: this task has all of them
};

/** A running softmax of several rows: the largest score, the sum of exp(score - top), and the weighted sum of values. */
struct State {
  float* top; // (rows)
  float* sum; // (rows)
  float* out; // (rows, padded value width)
};

/** Joins the next segment's state of one row to that of all before it. */
HOWDAH_INLINE void join(float& top, float& sum, float* out, float next_top, float next_sum, const float* next, int64_t width) {
  if (next_top == kMinusInf) return;
  if (top == kMinusInf) {
    top = next_top, sum = next_sum;
    std::memcpy(out, next, static_cast<size_t>(width) * 4);
    return;
  }
  const float most = std::max(top, next_top);
  const float mine = std::exp(top - most), theirs = std::exp(next_top - most);
  const vf a = splat(mine), b = splat(theirs);
  for (int64_t i = 0; i < width; i += W) store(out + i, fma(load(next + i), b, load(out + i) * a));
  sum = fma(splat(next_sum), b, splat(sum * mine))[0];
  top = most;
}

template <class T, bool Half>
class Walk {
 public:
  Walk(const PagedAttentionArgs& args, const Task& task) : a(args), t(task) {
    per_group = a.heads / a.groups;
    rows = (t.to - t.from) * per_group;
    width = pad(a.width), value_width = pad(a.value_width);
    converts = Half || a.width_unaligned() || (sizeof(T) != 4 && rows >= kManyRows);
    const int64_t page_words = Form<Half>::depth(a.width) * pad(a.page) + Form<Half>::depth(a.page) * value_width;
    const int64_t floats = rows * (width + value_width + W + 1) + kTileRows * a.page + page_words;
    q = scratch(0, static_cast<size_t>(floats) * 4);
    out = q + rows * width;
    sum = out + rows * value_width;
    score = sum + rows * W;
    keys = score + kTileRows * a.page;
    values = keys + Form<Half>::depth(a.width) * pad(a.page);
    top = values + Form<Half>::depth(a.page) * value_width;
    for (int64_t i = t.from; i < t.to; i++) {
      const float* from = a.q + (t.run->token + i) * a.q_token + t.group * per_group * a.width;
      pack_rows<Half>(from, a.width, per_group, a.width, a.scale, q + (i - t.from) * per_group * width / Form<Half>::per_word);
    }
  }

  /** Keys that row r sees. */
  int64_t end_of(int64_t r) const { return std::min(t.run->position + t.from + r / per_group + 1, a.blocks * a.page); }

  /** The state after one segment alone; the sums by lanes are added up. */
  void segment(int64_t s) {
    for (int64_t r = 0; r < rows; r++) top[r] = kMinusInf;
    std::fill_n(sum, rows * W, 0.0f);
    std::fill_n(out, rows * value_width, 0.0f);
    const int64_t begin = s * segment_keys(), end = std::min(begin + segment_keys(), end_of(rows - 1));
    for (int64_t key0 = begin; key0 < end; key0 += a.page) page(key0, std::min(a.page, end - key0), key0 + a.page < end);
  }
  int64_t segment_keys() const { return std::max(kSegmentKeys / a.page, int64_t{1}) * a.page; }
  float row_sum(int64_t r) const { return reduce_add(load(sum + r * W)); }

  const PagedAttentionArgs& a;
  const Task& t;
  int64_t rows, per_group, width, value_width;
  float *q, *out, *sum, *score, *keys, *values, *top;
  bool converts;

 private:
  int64_t page_at(int64_t key0) const { return std::clamp<int64_t>(t.run->pages[key0 / a.page], 0, a.pages - 1) * a.groups + t.group; }

  void page(int64_t key0, int64_t n, bool more) {
    const int64_t id = page_at(key0);
    const T* k = static_cast<const T*>(a.k) + id * a.width * a.page;
    const T* v = static_cast<const T*>(a.v) + id * a.page * a.value_width;
    const float* k_scale = a.k_scale ? a.k_scale + id * a.page : nullptr;
    const float* v_scale = a.v_scale ? a.v_scale + id * a.page : nullptr;
    if (converts) {
      convert_across<Half>(k, a.page, a.width, a.page, keys);
      convert_across<Half>(v, a.value_width, n, a.value_width, values);
    }
    const T* next = more ? static_cast<const T*>(a.k) + page_at(key0 + a.page) * a.width * a.page : nullptr;
    constexpr int64_t per_word = Form<Half>::per_word;
    for (int64_t r0 = 0; r0 < rows; r0 += kTileRows) {
      const int strip = static_cast<int>(std::min<int64_t>(kTileRows, rows - r0));
      const int64_t end = std::min(n, end_of(r0 + strip - 1) - key0); // rows see more and more keys
      if (end <= 0) continue;
      const int64_t columns = pad(end);
      const float* x = q + r0 * width / per_word;
      if (converts) strip_product<false, Half>(strip, columns, x, width / per_word, keys, a.page, Form<Half>::depth(a.width), score, a.page, false);
      else stored_strip<T>(strip, columns, x, width, k, a.page, a.width, score, a.page, false, r0 == 0 ? v : nullptr);
      for (int i = 0; i < strip; i++) softmax_row(r0 + i, score + i * a.page, std::min(end, end_of(r0 + i) - key0), columns, k_scale, v_scale);
      for (int i = 0; i < strip; i++) row_to_words<Half>(score + i * a.page, columns);
      float* y = out + r0 * value_width;
      if (converts) strip_product<false, Half>(strip, value_width, score, a.page, values, value_width, Form<Half>::depth(end), y, value_width, true);
      else stored_strip<T>(strip, value_width, score, a.page, v, a.value_width, end, y, value_width, true, r0 == 0 ? next : nullptr);
    }
  }

  /** Scores of one row against a page, of which it sees `seen`, become weights of values; what was summed before is scaled to the new top. */
  void softmax_row(int64_t row, float* s, int64_t seen, int64_t columns, const float* k_scale, const float* v_scale) {
    if (seen <= 0) {
      std::fill_n(s, columns, 0.0f);
      return;
    }
    vf best = splat(kMinusInf);
    for (int64_t j = 0; j < columns; j += W) {
      vf x = load(s + j);
      if (k_scale) x = x * load(k_scale + j);
      if (j + W > seen) x = select(first_n(seen - j), x, splat(kMinusInf));
      store(s + j, x);
      best = max(best, x);
    }
    const float old = top[row], now = std::max(old, reduce_max(best));
    if (now == kMinusInf) {
      std::fill_n(s, columns, 0.0f);
      return;
    }
    vf total = load(sum + row * W);
    if (now > old) {
      top[row] = now;
      if (old != kMinusInf) {
        const vf factor = splat(std::exp(old - now));
        total = total * factor;
        float* y = out + row * value_width;
        for (int64_t c = 0; c < value_width; c += W) store(y + c, load(y + c) * factor);
      }
    }
    for (int64_t j = 0; j < columns; j += W) {
      vf p = exp_bounded(load(s + j) - splat(now));
      total = total + p;
      if (v_scale) p = select(first_n(seen - j), p * load(v_scale + j), zero());
      store(s + j, p);
    }
    store(sum + row * W, total);
  }
};

/** Sums over the whole: the row's result. */
HOWDAH_INLINE void finish_row(const PagedAttentionArgs& a, int64_t token, int64_t head, float top, float sum, const float* out) {
  float* y = a.out + (token * a.heads + head) * a.value_width;
  const vf factor = splat(top == kMinusInf ? 0.0f : 1.0f / sum);
  for_vectors(a.value_width, [&](int64_t c, auto lanes, auto) { store_lanes(y + c, load_lanes(out + c, lanes) * factor, lanes); });
}

/** Floats of one row's part: top, sum, then the values. */
int64_t part_row(const PagedAttentionArgs& a) { return pad(a.value_width) + 2; }

template <class T, bool Half>
void run_task(const PagedAttentionArgs& a, const Task& task, float* parts) {
  Walk<T, Half> walk(a, task);
  if (task.part >= 0) {
    walk.segment(task.first_segment);
    for (int64_t r = 0; r < walk.rows; r++) {
      float* part = parts + task.part + r * part_row(a);
      part[0] = walk.top[r], part[1] = walk.row_sum(r);
      std::memcpy(part + 2, walk.out + r * walk.value_width, static_cast<size_t>(walk.value_width) * 4);
    }
    return;
  }
  State all{};
  const bool several = task.last_segment - task.first_segment > 1;
  if (several) {
    all.top = scratch(1, static_cast<size_t>(walk.rows * (walk.value_width + 2)) * 4);
    all.sum = all.top + walk.rows;
    all.out = all.sum + walk.rows;
    std::fill_n(all.top, walk.rows, kMinusInf);
  }
  for (int64_t s = task.first_segment; s < task.last_segment; s++) {
    walk.segment(s);
    if (!several) break;
    for (int64_t r = 0; r < walk.rows; r++)
      join(all.top[r], all.sum[r], all.out + r * walk.value_width, walk.top[r], walk.row_sum(r), walk.out + r * walk.value_width, walk.value_width);
  }
  for (int64_t r = 0; r < walk.rows; r++) {
    const int64_t token = task.run->token + task.from + r / walk.per_group, head = task.group * walk.per_group + r % walk.per_group;
    if (several) finish_row(a, token, head, all.top[r], all.sum[r], all.out + r * walk.value_width);
    else finish_row(a, token, head, walk.top[r], walk.row_sum(r), walk.out + r * walk.value_width);
  }
}

template <class T>
void attend_pages(const PagedAttentionArgs& a) {
  const int64_t per_group = a.heads / a.groups;
  static thread_local std::vector<Run> runs;
  static thread_local std::vector<Task> tasks;
  runs.clear(), tasks.clear();
  for (int64_t i = 0; i < a.tokens; i++) {
    if (a.position[i] < 0) {
      std::fill_n(a.out + i * a.heads * a.value_width, a.heads * a.value_width, 0.0f);
      continue;
    }
    const int32_t* pages = a.table + std::clamp<int64_t>(a.sequence[i], 0, a.sequences - 1) * a.blocks;
    Run* last = runs.empty() ? nullptr : &runs.back();
    if (last && last->pages == pages && last->token + last->count == i && last->position + last->count == a.position[i]) last->count++;
    else runs.push_back({i, 1, pages, a.position[i]});
  }
  const int64_t segment_keys = std::max(kSegmentKeys / a.page, int64_t{1}) * a.page;
  const int64_t most_tokens = std::max<int64_t>(1, kTaskRows / per_group);
  int64_t parts = 0;
  // A handful of sequences does not fill the threads: then their keys are cut into pieces as well.
  const bool apart = static_cast<int64_t>(runs.size()) * a.groups < 32;
  for (const Run& run : runs) {
    // Late tokens see the most keys, so they go first.
    for (int64_t to = run.count; to > 0; to -= most_tokens) {
      const int64_t from = std::max<int64_t>(0, to - most_tokens);
      const int64_t keys = std::min(run.position + to, a.blocks * a.page), segments = (keys + segment_keys - 1) / segment_keys;
      const int64_t rows = (to - from) * per_group;
      for (int64_t g = 0; g < a.groups; g++) {
        if (!apart || segments == 1 || rows > kManyRows) {
          tasks.push_back({&run, from, to, g, 0, segments, -1});
          continue;
        }
        for (int64_t s = 0; s < segments; s++) {
          tasks.push_back({&run, from, to, g, s, s + 1, parts});
          parts += rows * part_row(a);
        }
      }
    }
  }
  float* const memory = parts > 0 ? scratch(2, static_cast<size_t>(parts) * 4) : nullptr;
  const std::vector<Task>& list = tasks; // of this thread, not of those that run the tasks
  parallel_for(static_cast<int64_t>(list.size()), [&](int64_t i, int) {
    const Task& task = list[static_cast<size_t>(i)];
#if HOWDAH_BF16_DOT
    if (a.bf16_compute && (task.to - task.from) * per_group >= kManyRows) return run_task<T, true>(a, task, memory);
#endif
    run_task<T, false>(a, task, memory);
  });
  for (size_t i = 0; i < list.size(); i++) {
    const Task& task = list[i];
    if (task.part < 0 || task.first_segment != 0) continue;
    const int64_t rows = (task.to - task.from) * per_group, width = pad(a.value_width);
    for (int64_t r = 0; r < rows; r++) {
      float* whole = memory + task.part + r * part_row(a);
      for (size_t j = i + 1; j < list.size() && list[j].run == task.run && list[j].from == task.from && list[j].group == task.group; j++) {
        const float* part = memory + list[j].part + r * part_row(a);
        join(whole[0], whole[1], whole + 2, part[0], part[1], part + 2, width);
      }
      finish_row(a, task.run->token + task.from + r / per_group, task.group * per_group + r % per_group, whole[0], whole[1], whole + 2);
    }
  }
}

HOWDAH_INLINE void put(float* to, float x, float) { *to = x; }
HOWDAH_INLINE void put(bf16_t* to, float x, float) { *to = f32_to_bf16(x); }
HOWDAH_INLINE void put(int8_t* to, float x, float scale) { *to = static_cast<int8_t>(std::nearbyint(x / scale)); }

/** What whole numbers up to 127 stand for, so that the largest of n numbers is one of them. */
float scale_of(const float* x, int64_t n) {
  float most = 0;
  for (int64_t i = 0; i < n; i++) most = std::max(most, std::fabs(x[i]));
  return most / 127.0f;
}

template <class T>
void write_pages(const PageWriteArgs& a) {
  parallel_rows(a.tokens, a.groups * (a.width + a.value_width) * 4, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
      const int64_t position = a.position[i];
      if (position < 0 || position >= a.blocks * a.page) continue;
      const int64_t id = a.table[std::clamp<int64_t>(a.sequence[i], 0, a.sequences - 1) * a.blocks + position / a.page];
      if (id < 0 || id >= a.pages) continue;
      const int64_t at = position % a.page;
      for (int64_t g = 0; g < a.groups; g++) {
        const float *k = a.k + i * a.k_token + g * a.width, *v = a.v + i * a.v_token + g * a.value_width;
        float k_scale = 1, v_scale = 1;
        if constexpr (std::is_same_v<T, int8_t>) {
          k_scale = scale_of(k, a.width), v_scale = scale_of(v, a.value_width);
          a.k_scale[(id * a.groups + g) * a.page + at] = k_scale;
          a.v_scale[(id * a.groups + g) * a.page + at] = v_scale;
          k_scale = k_scale == 0 ? 1 : k_scale, v_scale = v_scale == 0 ? 1 : v_scale;
        }
        T* column = static_cast<T*>(a.k_pages) + (id * a.groups + g) * a.width * a.page + at;
        for (int64_t c = 0; c < a.width; c++) put(column + c * a.page, k[c], k_scale);
        T* row = static_cast<T*>(a.v_pages) + ((id * a.groups + g) * a.page + at) * a.value_width;
        for (int64_t c = 0; c < a.value_width; c++) put(row + c, v[c], v_scale);
      }
    }
  });
}

} // namespace

void paged_attention(const PagedAttentionArgs& a) {
  if (a.type == DType::f32) attend_pages<float>(a);
  else if (a.type == DType::bf16) attend_pages<bf16_t>(a);
  else attend_pages<int8_t>(a);
}

void page_write(const PageWriteArgs& a) {
  if (a.type == DType::f32) write_pages<float>(a);
  else if (a.type == DType::bf16) write_pages<bf16_t>(a);
  else write_pages<int8_t>(a);
}

extern const PagedTable paged_table;
const PagedTable paged_table = {paged_attention, page_write};

} // namespace howdah::HOWDAH_ISA
