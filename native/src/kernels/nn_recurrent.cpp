// Long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000) over a whole sequence, and its gradient.
//
// Units go in blocks of 16. The weight is packed once for the sequence, in the order that lets one task compute all four gates of its units
// and finish them while they are in the first-level cache; a step is one parallel loop. What a step hands to the next, h (or the gates' gradients
// on the way back), is written in the form that the tile reads, rounded to bf16 where products are, so nothing is packed per step.
#include "gemm_pack.hpp"
#include "gemm_tile.hpp"
#include "nn_common.hpp"

namespace howdah::HOWDAH_ISA {

namespace {

constexpr int kUnits = 16, kGates = 4;
/** Columns of a panel: a multiple of W that divides a block of units or is made of whole ones. */
constexpr int kWidth = W == 16 ? 32 : 16, kVectors = kWidth / W;
constexpr int kTileRows = W == 16 ? 12 : W == 8 ? 6 : 4;
/** Blocks of units of one task: enough work to hand out, and enough tasks for many threads. */
constexpr int64_t kTaskBlocks = 4;

template <bool BF>
constexpr auto recurrent_tiles = []<size_t... I>(std::index_sequence<I...>) {
  return std::array<TileFunction, sizeof...(I)>{multiply_tile<BF, ALayout::rows, (int)I + 1, kVectors>...};
}(std::make_index_sequence<kTileRows>{});

constexpr int64_t blocks_of(int64_t units) { return (units + kUnits - 1) / kUnits; }

/** Rows of values along k as the tile reads them, cut into blocks of k: [block][row][row_stride]. */
template <bool BF>
struct Operand {
  static constexpr int64_t block = tile_of<BF>.block * k_per_word(BF); // values of k
  int64_t rows, k;
  float* data;
  static int64_t count(int64_t k) { return (k + block - 1) / block; }
  static int64_t size(int64_t rows, int64_t k) { return count(k) * rows * row_stride<BF>; }

  /** 16 values of row r from k on, a multiple of 16. */
  void put(int64_t r, int64_t at, int lane, vf x) const {
    float* row = data + (at / block * rows + r) * row_stride<BF>;
    if constexpr (BF) store_bf16((bf16_t*)row + at % block + lane, x);
    else store(row + at % block + lane, x);
  }
};

/** to(rows, ld) = operand . packed, for one panel of kWidth columns; the panel is [word of k][kWidth]. */
template <bool BF>
void multiply(const Operand<BF>& a, const float* panel, float* to, int64_t ld) {
  for (int64_t p = 0, k0 = 0; k0 < a.k; p++, k0 += a.block) {
    const int kd = words((int)std::min(a.block, a.k - k0), BF);
    const float* ap = a.data + p * a.rows * row_stride<BF>;
    for (int64_t r = 0; r < a.rows; r += kTileRows) {
      const int64_t count = std::min<int64_t>(kTileRows, a.rows - r);
      recurrent_tiles<BF>[size_t(count - 1)](kd, ap + r * row_stride<BF>, row_stride<BF>, panel, kWidth, to + r * ld, ld, k0 > 0, {});
    }
    panel += (int64_t)kd * kWidth;
  }
}

/** The weight (4 H, H) with the gates of a block of units side by side: per block, 64 columns in panels of kWidth. */
template <bool BF>
void pack_forward(const LstmArgs& a, float* to, int64_t panel_words) {
  constexpr int panels = kUnits * kGates / kWidth;
  parallel_for(blocks_of(a.hidden), [&](int64_t b, int) {
    const int units = (int)std::min<int64_t>(kUnits, a.hidden - b * kUnits);
    for (int p = 0; p < panels; p++) {
      float* panel = to + (b * panels + p) * panel_words;
      for (int64_t k0 = 0; k0 < a.hidden; k0 += Operand<BF>::block) {
        const int k = (int)std::min<int64_t>(Operand<BF>::block, a.hidden - k0), kd = words(k, BF);
        for (int w = 0; w < kWidth; w += kUnits) {
          // A gate's 16 columns, then into their place in the panel.
          const int64_t gate = (p * kWidth + w) / kUnits;
          const float* source = a.weight + (gate * a.hidden + b * kUnits) * a.hidden + k0;
          float* columns = scratch(1, size_t(kd + W) * kUnits * 4);
          pack_panel_transposed<BF>(source, a.hidden, units, k, kUnits, columns);
          for (int q = 0; q < kd; q++) std::memcpy(panel + (int64_t)q * kWidth + w, columns + q * kUnits, kUnits * 4);
        }
        panel += (int64_t)kd * kWidth;
      }
    }
  });
}

/** The weight as what the gates' gradients are multiplied with: k in the order (block of units, gate, unit), columns are units. */
template <bool BF>
void pack_backward(const LstmGradArgs& a, float* to, int64_t panel_words) {
  const int64_t blocks = blocks_of(a.hidden);
  constexpr int run_words = kUnits / k_per_word(BF);
  parallel_for((a.hidden + kWidth - 1) / kWidth, [&](int64_t p, int) {
    float* panel = to + p * panel_words;
    std::fill_n(panel, panel_words, 0.0f);
    const int columns = (int)std::min<int64_t>(kWidth, a.hidden - p * kWidth);
    for (int64_t b = 0; b < blocks; b++)
      for (int64_t gate = 0; gate < kGates; gate++) {
        const int units = (int)std::min<int64_t>(kUnits, a.hidden - b * kUnits);
        const float* source = a.weight + (gate * a.hidden + b * kUnits) * a.hidden + p * kWidth;
        pack_panels<BF>(source, a.hidden, columns, units, kWidth, panel + (b * kGates + gate) * run_words * kWidth, 0);
      }
  });
}

template <bool BF>
void forward(const LstmArgs& a) {
  const int64_t hidden = a.hidden, batch = a.batch, blocks = blocks_of(hidden);
  constexpr int panels = kUnits * kGates / kWidth;
  int64_t panel_words = 0;
  for (int64_t k0 = 0; k0 < hidden; k0 += Operand<BF>::block)
    panel_words += (int64_t)words((int)std::min<int64_t>(Operand<BF>::block, hidden - k0), BF) * kWidth;
  float* packed = scratch(2, size_t(blocks * panels * panel_words) * 4);
  pack_forward<BF>(a, packed, panel_words);

  const int64_t padded = blocks * kUnits, operand = Operand<BF>::size(batch, padded);
  float* both = scratch(3, size_t(2 * operand) * 4);
  std::fill_n(both, 2 * operand, 0.0f);
  const Operand<BF> turns[2] = {{batch, hidden, both}, {batch, hidden, both + operand}};
  for (int64_t r = 0; r < batch; r++)
    for (int64_t k = 0; k < hidden; k += W) turns[0].put(r, k / kUnits * kUnits, (int)(k % kUnits), load_n(a.h0 + r * hidden + k, hidden - k));

  for (int64_t t = 0; t < a.time; t++) {
    const Operand<BF>&now = turns[t & 1], &next = turns[(t + 1) & 1];
    const float* before = t == 0 ? a.c0 : a.c + (t - 1) * batch * hidden;
    parallel_for((blocks + kTaskBlocks - 1) / kTaskBlocks, [&](int64_t task, int) {
      float* sums = scratch(0, size_t(batch * kUnits * kGates) * 4);
      for (int64_t b = task * kTaskBlocks; b < std::min(blocks, (task + 1) * kTaskBlocks); b++) {
        for (int p = 0; p < panels; p++) multiply<BF>(now, packed + (b * panels + p) * panel_words, sums + p * kWidth, kUnits * kGates);
        for (int64_t r = 0; r < batch; r++)
          for (int lane = 0; lane < kUnits; lane += W) {
            const int64_t unit = b * kUnits + lane, left = hidden - unit, row = t * batch + r;
            if (left <= 0) continue;
            const float *s = sums + r * kUnits * kGates + lane, *x = a.x + row * kGates * hidden + unit;
            const auto gate = [&](int g) { return load(s + g * kUnits) + load_n(x + g * hidden, left); };
            const vf i = logistic(gate(0)), f = logistic(gate(1)), g = tanh(gate(2)), o = logistic(gate(3));
            const vf c = fma(f, load_n(before + r * hidden + unit, left), i * g);
            const vf h = o * tanh(c);
            float* gates = a.gates + row * kGates * hidden + unit;
            store_n(gates, i, left);
            store_n(gates + hidden, f, left);
            store_n(gates + 2 * hidden, g, left);
            store_n(gates + 3 * hidden, o, left);
            store_n(a.c + row * hidden + unit, c, left);
            store_n(a.h + row * hidden + unit, h, left);
            next.put(r, b * kUnits, lane, h);
          }
      }
    });
  }
}

template <bool BF>
void backward(const LstmGradArgs& a) {
  const int64_t hidden = a.hidden, batch = a.batch, blocks = blocks_of(hidden), k = blocks * kUnits * kGates;
  const int64_t panels = (hidden + kWidth - 1) / kWidth, panel_words = (int64_t)words((int)k, BF) * kWidth;
  float* packed = scratch(2, size_t(panels * panel_words) * 4);
  pack_backward<BF>(a, packed, panel_words);

  const int64_t operand = Operand<BF>::size(batch, k);
  float* both = scratch(3, size_t(2 * operand) * 4);
  std::fill_n(both, 2 * operand, 0.0f);
  const Operand<BF> turns[2] = {{batch, k, both}, {batch, k, both + operand}};
  std::fill_n(a.dc0, batch * hidden, 0.0f);
  constexpr int64_t task_panels = std::max<int64_t>(1, kTaskBlocks * kUnits / kWidth / 2);
  // From the last step to the first, and once more for the state before it.
  for (int64_t t = a.time - 1; t >= -1; t--) {
    const Operand<BF>&later = turns[(t + 1) & 1], &own = turns[t & 1];
    parallel_for((panels + task_panels - 1) / task_panels, [&](int64_t task, int) {
      float* sums = scratch(0, size_t(batch * kWidth) * 4);
      for (int64_t p = task * task_panels; p < std::min(panels, (task + 1) * task_panels); p++) {
        if (t + 1 < a.time) multiply<BF>(later, packed + p * panel_words, sums, kWidth);
        else std::fill_n(sums, batch * kWidth, 0.0f);
        for (int64_t r = 0; r < batch; r++)
          for (int lane = 0; lane < kWidth; lane += W) {
            const int64_t unit = p * kWidth + lane, left = hidden - unit, at = r * hidden + unit;
            if (left <= 0) continue;
            vf dh = load(sums + r * kWidth + lane);
            if (t < 0) {
              store_n(a.dh0 + at, dh, left);
              continue;
            }
            const int64_t row = t * batch + r, here = row * hidden + unit;
            if (a.dh) dh = dh + load_n(a.dh + here, left);
            const float* gates = a.gates + row * kGates * hidden + unit;
            const vf i = load_n(gates, left), f = load_n(gates + hidden, left), g = load_n(gates + 2 * hidden, left),
                     o = load_n(gates + 3 * hidden, left), one = splat(1.0f);
            const vf tc = tanh(load_n(a.c + here, left));
            const vf before = load_n(t == 0 ? a.c0 + at : a.c + (row - batch) * hidden + unit, left);
            vf dc = load_n(a.dc0 + at, left) + dh * o * (one - tc * tc);
            if (a.dc) dc = dc + load_n(a.dc + here, left);
            const vf di = dc * g * i * (one - i), df = dc * before * f * (one - f), dg = dc * i * (one - g * g),
                     dout = dh * tc * o * (one - o);
            store_n(a.dc0 + at, dc * f, left);
            float* dx = a.dx + row * kGates * hidden + unit;
            store_n(dx, di, left);
            store_n(dx + hidden, df, left);
            store_n(dx + 2 * hidden, dg, left);
            store_n(dx + 3 * hidden, dout, left);
            const int64_t block = unit / kUnits * kUnits * kGates;
            const int inside = (int)(unit % kUnits);
            own.put(r, block, inside, di);
            own.put(r, block + kUnits, inside, df);
            own.put(r, block + 2 * kUnits, inside, dg);
            own.put(r, block + 3 * kUnits, inside, dout);
          }
      }
    });
  }
}

} // namespace

void lstm(const LstmArgs& a) {
#if HOWDAH_BF16_DOT
  if (a.bf16_compute) return forward<true>(a);
#endif
  forward<false>(a);
}

void lstm_grad(const LstmGradArgs& a) {
#if HOWDAH_BF16_DOT
  if (a.bf16_compute) return backward<true>(a);
#endif
  backward<false>(a);
}

} // namespace howdah::HOWDAH_ISA
