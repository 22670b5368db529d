// Matrix multiplication: how the work is cut, packed and handed out.
//
// The order in which a number of C is summed depends on shape and types alone: blocks of k of a fixed size, each summed
// upwards, one after the other. How C is cut into tasks may depend on the number of threads, since it does not touch that order.
// Blocking after Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008): panels of B stay in
// L1, a block of A in L2, all of B (or a range of its columns) in L3.
#include "../gemm.hpp"

#include <algorithm>

#include "../isa.hpp"
#include "../pool.hpp"
#include "gemm_finish.hpp"
#include "gemm_pack.hpp"
#include "gemm_thin.hpp"
#include "gemm_tile.hpp"

namespace howdah::HOWDAH_ISA {

extern const GemmTable gemm_table;

namespace {

// Scratch slots of gemm (pool.hpp).
enum Slot { slot_b = 8, slot_a, slot_own_b, slot_own_a, slot_partial, slot_thin_x, slot_thin_sums, slot_b_sums, slot_parts, slot_totals };

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
double flops(const GemmArgs& g) { return 2.0 * (double)g.m * (double)g.n * (double)g.k; }

/** Below this much work per task, handing it out costs more than it saves. */
constexpr double task_flops = 1e6;

template <class F>
void each(bool parallel, int64_t tasks, F&& body) {
  if (parallel) parallel_for(tasks, [&](int64_t task, int) { body(task); });
  else
    for (int64_t task = 0; task < tasks; task++) body(task);
}

template <class F>
void with_type(Type type, F&& body) {
  if (type == Type::f32) body((const float*)nullptr);
  else body((const bf16_t*)nullptr);
}

// ---- Blocks ----

/** The cut of k into blocks: a function of k and the tile alone. */
struct Blocks {
  int size;  // values of k per block
  int count;
  template <bool BF>
  static Blocks of(int64_t k) {
    const int64_t most = tile_of<BF>.block * k_per_word(BF);
    const int64_t count = std::max<int64_t>(1, ceil_div(k, most));
    return {(int)round_up(ceil_div(k, count), 2), (int)count};
  }
};

/** A block of A as the tile reads it. */
struct TileA {
  const float* data;
  ALayout layout;
  int64_t ld;    // words from row to row where it lies in rows
  int64_t panel; // words from one group of tile rows to the next
  template <bool BF>
  static TileA packed(const float* data, bool panels, int kd) {
    constexpr int64_t rows = tile_of<BF>.rows, ld = row_stride<BF>;
    return panels ? TileA{data, ALayout::panel, 0, kd * rows + W} : TileA{data, ALayout::rows, ld, rows * ld};
  }
};

/**
 * Whether the tile reads A from where it is: words of the right type in rows that do not crowd the same sets of L1 (64 lines to a
 * way) and are not far apart.
 */
template <bool BF>
bool reads_a_in_place(const GemmArgs& g) {
  if (g.trans_a || (g.ta == Type::bf16) != BF) return false;
  if (BF && (g.k % 2 != 0 || g.lda % 2 != 0 || (uintptr_t)g.a % 4 != 0)) return false;
  const int64_t bytes = g.lda * (BF ? 2 : 4), line = 64;
  if (bytes >= 4096) return false;
  return bytes % line != 0 || bytes / line % 32 != 0;
}

template <bool BF>
int64_t packed_a_words(int64_t rows, int kd, bool panels) {
  const int64_t groups = ceil_div(rows, tile_of<BF>.rows);
  return panels ? groups * ((int64_t)kd * tile_of<BF>.rows + W) : groups * tile_of<BF>.rows * row_stride<BF>;
}

/** Packs rows i .. i + rows of op(A) for k0 .. k0 + k, as panels or as rows (only where k lies along rows). */
template <bool BF>
void pack_a(const GemmArgs& g, int64_t i, int rows, int64_t k0, int k, bool panels, float* to) {
  constexpr int tile_rows = tile_of<BF>.rows;
  with_type(g.ta, [&](auto type) {
    const auto* a = (decltype(type))g.a;
    const int64_t stride = TileA::packed<BF>(to, true, words(k, BF)).panel;
    if (g.trans_a) pack_panels<BF>(a + k0 * g.lda + i, g.lda, rows, k, tile_rows, to, stride);
    else if (panels)
      for (int r = 0; r < rows; r += tile_rows, to += stride)
        pack_panel_narrow<BF, tile_rows>(a + (i + r) * g.lda + k0, g.lda, std::min(tile_rows, rows - r), k, to);
    else pack_rows<BF>(a + i * g.lda + k0, g.lda, rows, k, to, row_stride<BF>);
  });
}

/** Panels of B packed in one go where its rows lie along n: long runs of them are read, and the panels stay in L2. */
constexpr int64_t panels_at_once = 8;

/**
 * Packs `columns` columns of op(B) from column j into panels as wide as the tile, `stride` words apart. If `sums`, each column's sum
 * over this block of k goes there; only where k runs across rows.
 */
template <bool BF>
void pack_b(const GemmArgs& g, int64_t j, int64_t columns, int64_t k0, int k, float* to, int64_t stride, float* sums) {
  constexpr int width = tile_of<BF>.vectors * W;
  with_type(g.tb, [&](auto type) {
    const auto* b = (decltype(type))g.b;
    if (g.trans_b) {
      for (int64_t c = 0; c < columns; c += width, to += stride)
        pack_panel_transposed<BF>(b + (j + c) * g.ldb + k0, g.ldb, (int)std::min<int64_t>(width, columns - c), k, width, to);
    } else {
      constexpr int64_t step = panels_at_once * width;
      for (int64_t c = 0; c < columns; c += step, to += panels_at_once * stride)
        if (const int some = (int)std::min<int64_t>(step, columns - c); sums)
          pack_panels<BF, std::remove_cvref_t<decltype(*b)>, true>(b + k0 * g.ldb + j + c, g.ldb, some, k, width, to, stride, sums + c);
        else pack_panels<BF>(b + k0 * g.ldb + j + c, g.ldb, some, k, width, to, stride);
    }
  });
}

/** The partial sums of a task: where row i, column j of C stands between blocks of k. */
struct Partial {
  float* data;
  int64_t ld, row, column; // the place in C of data[0]
  float* at(int64_t i, int64_t j) const { return data + (i - row) * ld + (j - column); }
};

/** The lines that finishing rows from row i, columns j .. j + columns will touch. */
HOWDAH_INLINE void want_finish(Wanted& wanted, const GemmArgs& g, int64_t i, int64_t j, int columns, Turn turn) {
  if (!turn.last) return;
  const GemmEpilogue& e = g.epilogue;
  const auto want = [&](const void* p, Type type, int64_t ld) {
    const int64_t size = type == Type::f32 ? 4 : 2;
    wanted.add((const char*)p + (i * ld + j) * size, ld * size, columns * size);
  };
  want(g.c, g.tc, g.ldc);
  if (e.pre_activation) want(e.pre_activation, e.pre_type, g.ldc);
  if (e.gradient_at && e.gradient_at != g.c) want(e.gradient_at, e.gradient_type, g.ldc);
  if (e.residual && e.residual != g.c) want(e.residual, Type::f32, e.ldr);
}

/**
 * Sums of the result's columns: each group of so many tiles of rows has its own, in `totals` (groups, n), so that their order does not depend
 * on who multiplies what.
 */
constexpr int64_t total_tiles = 8;

/**
 * One panel of B (its `columns` columns start at column j) times a block of A, into C. `next` is the packed panel that comes after it, or null: its
 * lines are fetched from L3 meanwhile. `new_a`: nothing has read this block of A yet.
 */
template <bool BF>
void multiply_panel(const GemmArgs& g, const TileA& a, int64_t i0, int rows, int kd, const float* b, int64_t ldb,
                    int64_t j, int columns, const Partial& partial, Turn turn, float* totals, const float* next, bool new_a) {
  constexpr int tile_rows = tile_of<BF>.rows, width = tile_of<BF>.vectors * W;
  const auto& kernels = a.layout == ALayout::rows ? tile_functions<BF, ALayout::rows> : tile_functions<BF, ALayout::panel>;
  // Plain sums go straight to C or the partial sums, all else through a buffer in L1.
  const bool to_c = g.tc == Type::f32 && partial.data == (float*)g.c;
  const bool plain = g.alpha == 1 && (columns == width || !to_c) && (!turn.last || (to_c && !g.epilogue.any())) &&
                     !(turn.first && g.beta != 0 && !to_c);
  const bool add = !turn.first || g.beta != 0;
  const FinishWhole whole = turn.first && turn.last && columns == width ? finish_whole_of<tile_of<BF>.vectors>(g) : nullptr;
  alignas(64) float buffer[tile_rows * width], total[width] = {};
  // With few tiles to a panel, asking would take longer than it saves.
  const int64_t tiles = ceil_div(rows, tile_rows), lines = next && tiles >= 4 ? ceil_div(ceil_div((int64_t)kd * width * 4, 64), tiles * tile_rows) : 0;
  // The next tile's rows of A, where they are not one run that the processor fetches by itself. With long k they would leave L1 before their turn, since all
  // of the panel of B passes through it.
  const bool wants_a = a.layout == ALayout::rows && (new_a || (int64_t)kd * width * 4 <= (int64_t)cache_sizes().l1 / 2);
  for (int r = 0; r < rows; r += tile_rows) {
    const int count = std::min(tile_rows, rows - r);
    const float* ap = a.data + (r / tile_rows) * a.panel;
    const auto kernel = kernels[(size_t)count - 1];
    float* p = partial.data ? partial.at(i0 + r, j) : nullptr;
    Wanted wanted;
    if (lines > 0) wanted.later = (const char*)next + r * lines * 64, wanted.later_lines = (int)lines;
    if (wants_a && r + tile_rows < rows) wanted.add(ap + a.panel, a.ld * 4, kd * 4);
    if (plain) {
      wanted.add(p, partial.ld * 4, columns * 4);
      kernel(kd, ap, a.ld, b, ldb, p, partial.ld, add, wanted);
    } else {
      want_finish(wanted, g, i0 + r, j, columns, turn);
      kernel(kd, ap, a.ld, b, ldb, buffer, width, false, wanted);
      float* const into = totals && turn.last ? total : nullptr;
      if (whole) whole(g, i0 + r, count, j, buffer, into);
      else finish_rows(g, i0 + r, count, j, columns, buffer, width, p, partial.ld, turn, into);
      const int64_t tile = (i0 + r) / tile_rows;
      if (into && (tile % total_tiles == total_tiles - 1 || r + tile_rows >= rows)) {
        for (int c = 0; c < columns; c += W) store_n(totals + tile / total_tiles * g.n + j + c, load(total + c), columns - c);
        std::fill_n(total, width, 0.0f);
      }
    }
  }
}

/** How a product is cut: a turn over spans of k, and in each over chunks of columns; the tasks of a turn are rectangles of C. */
template <bool BF>
struct Cut {
  static constexpr int tile_rows = tile_of<BF>.rows, width = tile_of<BF>.vectors * W;
  Blocks blocks;
  int kd_block;            // words of a block of k
  int span_blocks;         // blocks of k that one turn goes through
  int64_t tiles;           // along m
  int64_t block_rows, row_blocks; // rows of the largest block
  int64_t column_tasks = 0;       // what each block of rows is cut into, or 0: to be chosen
  int64_t chunk_columns, chunks;  // columns of packed B that are there at one time
  bool in_place;           // A is not packed
  bool panels_a;           // or packed as panels: dearer than as rows, but one run for the tile, so that it takes many columns to pay
  bool share_a, share_b;   // packed by all threads before the tasks, not by each task
  bool own_partial;        // partial sums need a place of their own: C cannot hold them, or still holds what the end reads

  int64_t unit;            // tiles that stay together: those whose columns are summed together
  int64_t graded = 0;      // of the last blocks, so many have half the size and twice as many a quarter

  /**
   * Block `block` of rows begins here: blocks of one size differ by one row of tiles at most (or a unit of them), and the last are smaller, so that
   * threads end together.
   */
  int64_t first_row(int64_t block) const {
    // In quarters of a large block.
    const int64_t large = row_blocks - 3 * graded;
    const int64_t before = 4 * block - 2 * std::max<int64_t>(0, block - large) - std::max<int64_t>(0, block - large - graded);
    return before * ceil_div(tiles, unit) / (4 * (large + graded)) * unit * tile_rows;
  }

  Cut(const GemmArgs& g, int threads) {
    const CacheSizes& cache = cache_sizes();
    blocks = Blocks::of<BF>(g.k);
    kd_block = words(blocks.size, BF);
    tiles = ceil_div(g.m, tile_rows);
    in_place = reads_a_in_place<BF>(g);
    panels_a = g.trans_a || g.n >= 16 * width;
    // A block of A takes half of L2, with as much of k as leaves it enough rows to pay for reading B.
    const int64_t room = (int64_t)cache.l2 / 2 / 4, line = kd_block;
    constexpr int64_t enough = 7 * tile_rows, most = 16 * tile_rows;
    span_blocks = (int)std::clamp<int64_t>(room / (std::min<int64_t>(g.m, enough) * line), 1, blocks.count);
    span_blocks = (int)ceil_div(blocks.count, ceil_div(blocks.count, span_blocks));

    // With all of A or of B in L2, and a single turn, each thread takes a part of the other, so that little is packed for all and waited for.
    const int64_t panels = ceil_div(g.n, width), k_words = (int64_t)kd_block * blocks.count;
    const bool one_turn = threads > 1 && span_blocks == blocks.count;
    const bool by_columns = one_turn && (in_place || g.n >= g.m) && g.m * k_words <= 2 * room && even(panels, threads);
    // A task's rows of A are read once for every panel of B, so they have to stay in L2, too.
    const bool by_rows =
        one_turn && !by_columns && g.n * k_words <= 2 * room && ceil_div(g.m, threads) * k_words <= 2 * room && even(tiles, threads);
    if (by_columns) {
      row_blocks = 1;
      column_tasks = tasks_of(panels, threads, flops(g));
    } else if (by_rows) {
      row_blocks = tasks_of(tiles, threads, flops(g));
      column_tasks = 1;
    } else {
      int64_t rows = std::clamp<int64_t>(room / (line * span_blocks) / tile_rows * tile_rows, 4 * tile_rows, most);
      if (threads > 1) rows = std::min(rows, std::max<int64_t>(4 * tile_rows, ceil_div(g.m, 3 * threads)));
      row_blocks = ceil_div(g.m, rows);
      if (row_blocks > threads) row_blocks = std::min(tiles, round_up(row_blocks, threads));
    }
    unit = g.epilogue.result_sums ? total_tiles : 1;
    row_blocks = std::min(row_blocks, ceil_div(tiles, unit));
    block_rows = ceil_div(ceil_div(tiles, unit), row_blocks) * unit * tile_rows;
    share_a = !in_place && threads > 1 && !by_rows && row_blocks < 2 * threads;
    share_b = row_blocks > 1;
    if (threads > 1 && !by_rows && !by_columns && row_blocks >= 3 * threads && block_rows >= 4 * unit * tile_rows) {
      graded = threads;
      row_blocks += 2 * graded;
    }

    const GemmEpilogue& e = g.epilogue;
    own_partial = blocks.count > 1 && (g.tc == Type::bf16 || (e.residual && e.residual == g.c) || (e.gradient_at && e.gradient_at == g.c));
    const int64_t budget = (int64_t)std::clamp<size_t>(cache.l3 / 4, 4u << 20, 16u << 20);
    int64_t columns = std::max<int64_t>(8 * width, budget / ((int64_t)kd_block * span_blocks * 4));
    // Partial sums that live through several spans are kept for the whole chunk.
    if (own_partial && span_blocks < blocks.count) columns = std::max<int64_t>(8 * width, std::min(columns, budget / 4 / g.m));
    chunks = ceil_div(g.n, columns);
    chunk_columns = round_up(ceil_div(g.n, chunks), width);
  }

 private:
  /** The most that one of `threads` gets of `parts` in `tasks` tasks. */
  static int64_t share(int64_t parts, int64_t tasks, int64_t threads) { return ceil_div(parts, tasks) * ceil_div(ceil_div(parts, ceil_div(parts, tasks)), threads); }
  static bool even(int64_t parts, int64_t threads) { return 8 * share(parts, threads, threads) * threads <= 9 * parts; }
  /** As many tasks as threads, or twice as many where each is still worth handing out: then a thread that comes late does less harm. */
  static int64_t tasks_of(int64_t parts, int64_t threads, double work) {
    const int64_t twice = 2 * threads;
    return work >= (double)twice * 4 * task_flops && share(parts, twice, threads) <= share(parts, threads, threads) ? twice : threads;
  }
};

/**
 * B is packed by all threads together, unless only one task wants each panel; so is A where several tasks want the same rows. Then each
 * task multiplies a block of rows by a range of panels.
 */
template <bool BF>
void multiply_blocked(const GemmArgs& g, bool parallel) {
  constexpr int tile_rows = tile_of<BF>.rows, width = tile_of<BF>.vectors * W;
  const int threads = parallel ? thread_count() : 1;
  const Cut<BF> cut(g, threads);
  const Blocks& blocks = cut.blocks;
  const auto block_k = [&](int p) { return (int)std::min<int64_t>(blocks.size, g.k - (int64_t)p * blocks.size); };
  const int64_t a_words = packed_a_words<BF>(cut.block_rows, cut.kd_block, cut.panels_a); // of a block of A
  const bool long_partial = cut.own_partial && cut.span_blocks < blocks.count;
  float* const b_sums = g.b_sums ? scratch(slot_b_sums, (size_t)(blocks.count * g.n) * 4) : nullptr;
  const int64_t groups_of_rows = ceil_div(cut.tiles, total_tiles);
  float* const totals = g.epilogue.result_sums ? scratch(slot_totals, (size_t)(groups_of_rows * g.n) * 4) : nullptr;
  const auto sums_at = [&](int p, int64_t j) { return b_sums ? b_sums + p * g.n + j : nullptr; };

  for (int64_t chunk = 0; chunk < cut.chunks; chunk++) {
    const int64_t j0 = chunk * cut.chunk_columns, columns = std::min(cut.chunk_columns, g.n - j0);
    if (columns <= 0) break;
    const int64_t panels = ceil_div(columns, width), partial_ld = round_up(columns, width);
    float* const sums = long_partial ? scratch(slot_partial, (size_t)(g.m * partial_ld) * 4) : nullptr;
    for (int from = 0; from < blocks.count; from += cut.span_blocks) {
      const int span = std::min(cut.span_blocks, blocks.count - from);
      const int64_t stride = (int64_t)cut.kd_block * width; // words of a packed panel of B
      float* const shared_b = cut.share_b ? scratch(slot_b, (size_t)(panels * stride * span) * 4) : nullptr;
      float* const shared_a = cut.share_a ? scratch(slot_a, (size_t)(cut.row_blocks * a_words * span) * 4) : nullptr;

      // One task packs a group of panels of B for one block of k, or a block of A.
      const int64_t group = std::clamp<int64_t>(panels * span / (4 * threads), 1, panels_at_once);
      const int64_t groups = cut.share_b ? ceil_div(panels, group) : 0;
      // Where there is a single block of A, its rows of tiles are shared out.
      const int64_t pieces = cut.row_blocks == 1 ? std::min<int64_t>(cut.tiles, 2 * threads) : 1;
      const int64_t a_tasks = cut.share_a ? cut.row_blocks * span * pieces : 0;
      const bool together = parallel && ((cut.share_b ? columns : 0) + (cut.share_a ? g.m : 0)) * g.k >= 16384;
      const auto rows_of = [&](int64_t block) { return (int)(std::min(g.m, cut.first_row(block + 1)) - cut.first_row(block)); };
      each(together, a_tasks + groups * span, [&](int64_t task) {
        if (task < a_tasks) {
          const int64_t piece = task % pieces, block = task / pieces / span, p = task / pieces % span;
          const int64_t block_tiles = ceil_div(rows_of(block), tile_rows), first = piece * block_tiles / pieces, end = (piece + 1) * block_tiles / pieces;
          const int rows = (int)std::min<int64_t>(rows_of(block), end * tile_rows) - (int)first * tile_rows, k = block_k(from + (int)p);
          const int64_t panel = TileA::packed<BF>(nullptr, cut.panels_a, words(k, BF)).panel;
          pack_a<BF>(g, cut.first_row(block) + first * tile_rows, rows, (from + p) * blocks.size, k,
                     cut.panels_a, shared_a + (block * span + p) * a_words + first * panel);
          return;
        }
        task -= a_tasks;
        const int64_t p = task / groups, panel = task % groups * group;
        pack_b<BF>(g, j0 + panel * width, std::min<int64_t>(group * width, columns - panel * width), (from + p) * blocks.size,
                   block_k(from + (int)p), shared_b + (p * panels + panel) * stride, stride,
                   sums_at(from + (int)p, j0 + panel * width));
      });

      // With fewer blocks of rows than keep all threads busy, the columns are shared out too.
      const int64_t wanted = cut.share_b ? ceil_div(2 * threads, cut.row_blocks) : 4 * threads;
      const int64_t column_tasks = cut.column_tasks                                  ? cut.column_tasks
                                   : cut.row_blocks >= 2 * threads || threads == 1 ? 1
                                                                                   : std::clamp<int64_t>(wanted, 1, panels);
      const int64_t task_panels = ceil_div(panels, column_tasks);
      each(parallel, cut.row_blocks * column_tasks, [&](int64_t task) {
        const int64_t block = task / column_tasks, i0 = cut.first_row(block);
        const int rows = rows_of(block);
        const int64_t first = task % column_tasks * task_panels, end = std::min(panels, first + task_panels);
        if (rows <= 0 || first >= end) return;
        const float* a = shared_a ? shared_a + block * span * a_words : nullptr;
        if (!a && !cut.in_place) {
          float* const to = scratch(slot_own_a, (size_t)(a_words * span) * 4);
          for (int p = 0; p < span; p++) 
            pack_a<BF>(g, i0, rows, (int64_t)(from + p) * blocks.size, block_k(from + p), cut.panels_a, to + p * a_words);
          a = to;
        }
        // Where partial sums live only as long as a panel, they stay in L1 or L2.
        float* const own = cut.own_partial && !long_partial ? scratch(slot_partial, (size_t)(cut.block_rows * width) * 4) : nullptr;
        const int64_t at_once = cut.share_b ? end - first : std::min(panels_at_once, end - first);
        float* const own_b = cut.share_b ? nullptr : scratch(slot_own_b, (size_t)(at_once * stride * span) * 4);
        for (int64_t start = first; start < end; start += at_once) {
          const int64_t stop = std::min(end, start + at_once);
          for (int p = 0; own_b && p < span; p++)
            pack_b<BF>(g, j0 + start * width, std::min((stop - start) * width, columns - start * width), (int64_t)(from + p) * blocks.size,
                       block_k(from + p), own_b + p * at_once * stride, stride, sums_at(from + p, j0 + start * width));
          for (int64_t panel = start; panel < stop; panel++) {
            const int64_t j = j0 + panel * width;
            const Partial partial = own                  ? Partial{own, width, i0, j}
                                    : long_partial       ? Partial{sums, partial_ld, 0, j0}
                                    : g.tc == Type::f32 ? Partial{(float*)g.c, g.ldc, 0, 0}
                                                         : Partial{nullptr, 0, 0, 0};
            for (int p = 0; p < span; p++) {
              const int kd = words(block_k(from + p), BF);
              const int64_t ld = g.lda / k_per_word(BF), k0 = (int64_t)(from + p) * blocks.size / k_per_word(BF);
              const TileA block_a = cut.in_place ? TileA{(const float*)g.a + i0 * ld + k0, ALayout::rows, ld, tile_rows * ld}
                                                 : TileA::packed<BF>(a + p * a_words, cut.panels_a, kd);
              const float* b = own_b ? own_b + (p * at_once + panel - start) * stride : shared_b + (p * panels + panel) * stride;
              const bool more = p + 1 < span || panel + 1 < stop;
              const float* next = own_b || !more ? nullptr : shared_b + (p + 1 < span ? (p + 1) * panels + panel : panel + 1) * stride;
              multiply_panel<BF>(g, block_a, i0, rows, kd, b, width, j, (int)std::min<int64_t>(width, g.n - j), partial,
                                 {from + p == 0, from + p == blocks.count - 1}, totals, next, cut.in_place && panel == first);
            }
          }
        }
      });
    }
  }
  for (int64_t j = 0; b_sums && j < g.n; j += W) {
    vf sum = load_n(b_sums + j, g.n - j);
    for (int p = 1; p < blocks.count; p++) sum = sum + load_n(b_sums + p * g.n + j, g.n - j);
    store_n(g.b_sums + j, sum, g.n - j);
  }
  for (int64_t j = 0; totals && j < g.n; j += W) {
    vf sum = load_n(totals + j, g.n - j);
    for (int64_t group = 1; group < groups_of_rows; group++) sum = sum + load_n(totals + group * g.n + j, g.n - j);
    store_n(g.epilogue.result_sums + j, sum, g.n - j);
  }
}

/** The sums of B's columns where no packing passes by them. */
void sum_columns(const GemmArgs& g) {
  with_type(g.tb, [&](auto type) {
    const auto* b = (decltype(type))g.b;
    for (int64_t j = 0; j < g.n; j += W) {
      const int64_t left = g.n - j;
      vf sum = zero();
      for (int64_t k = 0; k < g.k; k++) {
        if (!g.trans_b) sum = sum + (vf)words_across_k<false>(b + k * g.ldb + j, nullptr, (int)std::min<int64_t>(left, W));
        else
          for (int x = 0; x < std::min<int64_t>(left, W); x++) {
            const auto value = b[(j + x) * g.ldb + k];
            if constexpr (sizeof(value) == 4) sum[x] += value;
            else sum[x] += bf16_to_f32(value);
          }
      }
      store_n(g.b_sums + j, sum, left);
    }
  });
}

// ---- Few rows or few columns ----

/** Calls body(std::integral_constant<int, T>) for T = count. */
template <class F, int... I>
void with_count(int count, F&& body, std::integer_sequence<int, I...>) {
  ((count == I + 1 ? body(std::integral_constant<int, I + 1>{}) : void()), ...);
}

/**
 * The thin side is x: rows of A (`x_rows`), or columns of B. The large side is w. Where k is contiguous in w, each of its
 * rows gives T dot products; else rows of w are added up.
 */
template <bool BF>
void multiply_thin(const GemmArgs& g, bool x_rows, bool parallel) {
  const int T = (int)(x_rows ? g.m : g.n);
  const int64_t size = x_rows ? g.n : g.m; // along w
  const void* const w = x_rows ? g.b : g.a;
  const Type tw = x_rows ? g.tb : g.ta;
  const int64_t ldw = x_rows ? g.ldb : g.lda;
  const bool w_contiguous = x_rows ? g.trans_b : !g.trans_a;
  const void* const xs = x_rows ? g.a : g.b;
  const Type tx = x_rows ? g.ta : g.tb;
  const int64_t ldx = x_rows ? g.lda : g.ldb;
  const bool x_contiguous = x_rows ? !g.trans_a : g.trans_b;
  const auto x_at = [&](int64_t t, int64_t k) {
    const int64_t at = x_contiguous ? t * ldx + k : k * ldx + t;
    return tx == Type::f32 ? ((const float*)xs)[at] : bf16_to_f32(((const bf16_t*)xs)[at]);
  };
  /** Row `at` of w's side is finished: T sums, `stride` apart. */
  const auto finish_columns = [&](int64_t at, int64_t count, const float* sums, int64_t ld) {
    if (x_rows) {
      for (int t = 0; t < T; t++) finish_row(g, t, at, count, sums + t * ld, nullptr, {true, true});
    } else {
      float row[thin_limit];
      for (int64_t i = 0; i < count; i++) {
        for (int t = 0; t < T; t++) row[t] = sums[t * ld + i];
        finish_row(g, at + i, 0, T, row, nullptr, {true, true});
      }
    }
  };
  const int threads = parallel ? thread_count() : 1;

  if (w_contiguous) {
    // x as T vectors of words, zeros behind the last.
    const int64_t kd = round_up(ceil_div(g.k, k_per_word(BF)), W);
    float* const x = scratch(slot_thin_x, (size_t)(T * kd) * 4);
    for (int t = 0; t < T; t++) {
      if (x_contiguous) {
        with_type(tx, [&](auto type) {
          pack_rows<BF>((decltype(type))xs + t * ldx, ldx, 1, (int)g.k, x + t * kd, kd);
        });
      } else if constexpr (BF) {
        bf16_t* to = (bf16_t*)(x + t * kd);
        for (int64_t k = 0; k < 2 * kd; k++) to[k] = k < g.k ? f32_to_bf16(x_at(t, k)) : (bf16_t)0;
      } else {
        for (int64_t k = 0; k < kd; k++) x[t * kd + k] = k < g.k ? x_at(t, k) : 0.0f;
      }
    }
    // Long runs of rows: each thread reads one sequential stream.
    const int64_t per_task = std::clamp<int64_t>(ceil_div(size, 4 * threads), 1, 64);
    each(parallel, ceil_div(size, per_task), [&](int64_t task) {
      float dots[64 * thin_limit], sums[64 * thin_limit];
      const int64_t at = task * per_task, count = std::min(per_task, size - at);
      with_type(tw, [&](auto type) {
        with_count(T, [&](auto n) {
          thin_dot_rows<BF, n()>((decltype(type))w + at * ldw, ldw, count, g.k, x, kd, dots);
        }, std::make_integer_sequence<int, thin_limit>{});
      });
      for (int64_t i = 0; i < count; i++)
        for (int t = 0; t < T; t++) sums[t * count + i] = dots[i * T + t];
      finish_columns(at, count, sums, count);
    });
    return;
  }

  // x as k rows of T. The multiplication itself is in f32: reading w is the limit, and pairs along k are far apart.
  float* const x = scratch(slot_thin_x, (size_t)(T * g.k) * 4);
  for (int64_t k = 0; k < g.k; k++)
    for (int t = 0; t < T; t++) x[k * T + t] = BF ? bf16_to_f32(f32_to_bf16(x_at(t, k))) : x_at(t, k);
  const int64_t per_task = std::clamp<int64_t>(round_up(ceil_div(size, 4 * threads), 4 * W), 4 * W, 1024);
  each(parallel, ceil_div(size, per_task), [&](int64_t task) {
    float* const sums = scratch(slot_thin_sums, (size_t)(T * per_task) * 4);
    const int64_t at = task * per_task, count = std::min(per_task, size - at);
    with_type(tw, [&](auto type) {
      with_count(T, [&](auto n) {
        thin_axpy<BF, n()>((decltype(type))w + at, ldw, count, g.k, x, sums, per_task);
      }, std::make_integer_sequence<int, thin_limit>{});
    });
    finish_columns(at, count, sums, per_task);
  });
}

// ---- Long k, small C (gradients of weights) ----

/** How many parts k is cut into, from shape alone; 1: not worth it. A few: each costs a C of its own. */
int parts_of(const GemmArgs& g) {
  if (g.b_sums || g.k < 8192 || g.k < 4 * std::max(g.m, g.n) || g.m * g.n < 96 * 96) return 1;
  return 4;
}

/** Each part of k on a thread of its own, so that none waits for panels that others pack; then the parts are added in order. */
template <bool BF>
void multiply_in_parts(const GemmArgs& g, int parts, bool parallel) {
  const int64_t size = g.m * g.n, part_k = round_up(ceil_div(g.k, parts), 2);
  float* const sums = scratch(slot_parts, (size_t)(size * parts) * 4);
  const auto offset = [](const void* p, Type type, int64_t n) -> const void* {
    return type == Type::f32 ? (const void*)((const float*)p + n) : (const bf16_t*)p + n;
  };
  each(parallel, parts, [&](int64_t part) {
    GemmArgs piece = g;
    const int64_t k0 = part * part_k;
    piece.k = std::max<int64_t>(0, std::min(part_k, g.k - k0));
    piece.a = offset(g.a, g.ta, g.trans_a ? k0 * g.lda : k0);
    piece.b = offset(g.b, g.tb, g.trans_b ? k0 : k0 * g.ldb);
    piece.c = sums + part * size;
    piece.tc = Type::f32;
    piece.ldc = g.n;
    piece.alpha = 1;
    piece.beta = 0;
    piece.epilogue = {};
    multiply_blocked<BF>(piece, false);
  });
  const int64_t rows_per_task = std::max<int64_t>(1, 16384 / g.n);
  each(parallel, ceil_div(g.m, rows_per_task), [&](int64_t task) {
    for (int64_t i = task * rows_per_task; i < std::min(g.m, (task + 1) * rows_per_task); i++) {
      float* total = sums + i * g.n;
      for (int64_t j = 0; j < g.n; j += W) {
        const int64_t left = g.n - j;
        vf s = load_n(total + j, left);
        for (int part = 1; part < parts; part++) s = s + load_n(total + part * size + j, left);
        store_n(total + j, s, left);
      }
      finish_row(g, i, 0, g.n, total, nullptr, {true, true});
    }
  });
}

// ---- Choice ----

template <bool BF>
void multiply_one(const GemmArgs& g, bool parallel);

/** The sums of the result's columns where its rows are not finished in tiles: the result stays in f32 until they are taken. */
template <bool BF>
void multiply_then_sum(const GemmArgs& g, bool parallel) {
  GemmArgs whole = g;
  whole.epilogue.result_sums = nullptr;
  float* const wide = g.tc == Type::f32 ? (float*)g.c : scratch(slot_totals, (size_t)(g.m * g.ldc) * 4);
  if (g.beta != 0 && wide != g.c)
    for (int64_t i = 0; i < g.m; i++)
      for (int64_t j = 0; j < g.n; j++) wide[i * g.ldc + j] = bf16_to_f32(((const bf16_t*)g.c)[i * g.ldc + j]);
  whole.c = wide;
  whole.tc = Type::f32;
  multiply_one<BF>(whole, parallel);
  for (int64_t j = 0; j < g.n; j += W) {
    const int64_t left = g.n - j;
    vf sum = zero();
    for (int64_t i = 0; i < g.m; i++) {
      const vf x = load_n(wide + i * g.ldc + j, left);
      sum = sum + x;
      if (wide != g.c) store_bf16_n((bf16_t*)g.c + i * g.ldc + j, x, left);
    }
    store_n(g.epilogue.result_sums + j, sum, left);
  }
}

template <bool BF>
void multiply_one(const GemmArgs& g, bool parallel) {
  if (g.k <= 0 && g.epilogue.result_sums) return multiply_then_sum<BF>(g, parallel);
  if (g.k <= 0) {
    // Only beta * C and the epilogue.
    if (g.b_sums) std::fill_n(g.b_sums, g.n, 0.0f);
    const float none[64] = {};
    for (int64_t i = 0; i < g.m; i++)
      for (int64_t j = 0; j < g.n; j += 64)
        finish_row(g, i, j, std::min<int64_t>(64, g.n - j), none, nullptr, {true, true});
    return;
  }
  const bool x_rows = g.m <= g.n;
  const bool w_contiguous = x_rows ? g.trans_b : !g.trans_a;
  const bool thin = std::min(g.m, g.n) <= (BF && !w_contiguous ? thin_limit / 2 : thin_limit);
  if (g.b_sums && (thin || g.trans_b)) {
    sum_columns(g);
    GemmArgs rest = g;
    rest.b_sums = nullptr;
    return multiply_one<BF>(rest, parallel);
  }
  const int parts = thin ? 1 : parts_of(g);
  if (g.epilogue.result_sums && (thin || parts > 1)) return multiply_then_sum<BF>(g, parallel);
  parallel = parallel && flops(g) >= 2 * task_flops;
  // Thin: rows of x against w, x the smaller of the two. Adding up rows of w is in f32, so with more than a few rows
  // bf16 dot products win in spite of the packing.
  if (thin) return multiply_thin<BF>(g, x_rows, parallel);
  if (parts > 1) return multiply_in_parts<BF>(g, parts, parallel);
  multiply_blocked<BF>(g, parallel);
}

template <bool BF>
void multiply(GemmArgs g, bool parallel) {
  if (g.batch <= 0 || g.m <= 0 || g.n <= 0) return;
  if (g.batch == 1) return multiply_one<BF>(g, parallel);
  const auto nth = [&](int64_t i) {
    const auto offset = [](const void* p, Type type, int64_t n) {
      return (char*)p + n * (type == Type::f32 ? 4 : 2);
    };
    GemmArgs one = g;
    one.batch = 1;
    one.a = offset(g.a, g.ta, i * g.stride_a);
    one.b = offset(g.b, g.tb, i * g.stride_b);
    one.c = offset(g.c, g.tc, i * g.stride_c);
    if (g.epilogue.pre_activation) one.epilogue.pre_activation = offset(g.epilogue.pre_activation, g.epilogue.pre_type, i * g.stride_c);
    if (g.epilogue.gradient_at) one.epilogue.gradient_at = offset(g.epilogue.gradient_at, g.epilogue.gradient_type, i * g.stride_c);
    if (g.epilogue.residual) one.epilogue.residual += i * g.stride_c;
    return one;
  };
  // Matrices are handed out in groups of some work, or one after the other when each is enough for all threads.
  const double each_flops = std::max(flops(g), 2.0 * (double)(g.m * g.n));
  if (parallel && (g.batch >= 4 * thread_count() || each_flops < 8 * task_flops)) {
    const int64_t group = std::clamp<int64_t>((int64_t)(task_flops / each_flops), 1, g.batch);
    parallel_for(ceil_div(g.batch, group), [&](int64_t task, int) {
      for (int64_t i = task * group; i < std::min(g.batch, (task + 1) * group); i++) multiply_one<BF>(nth(i), false);
    });
    return;
  }
  for (int64_t i = 0; i < g.batch; i++) multiply_one<BF>(nth(i), parallel);
}

void dispatch(const GemmArgs& g, bool parallel) {
#if HOWDAH_BF16_DOT
  if (g.bf16_compute) return multiply<true>(g, parallel);
#endif
  multiply<false>(g, parallel);
}

} // namespace

const GemmTable gemm_table = {
    [](const GemmArgs& g) { dispatch(g, true); },
    [](const GemmArgs& g) { dispatch(g, false); },
};

} // namespace howdah::HOWDAH_ISA
