// Attention against the matrix of all scores in double; its gradients against the chain rule on that matrix.
#include "nn_test.hpp"

using namespace howdah;
using namespace howdah::test;

namespace {

struct Case {
  int64_t batch, queries, keys, heads, groups, width, value_width;
  bool causal;
  int intervals; // 0: none; 1: `end` only; 2: first and end, some rows empty
  bool slopes;
  float dropout;
  bool packed; // q, k and v as slices of one (batch, time, heads + 2 groups, width) tensor
};

uint32_t philox_word(const int32_t key[2], uint64_t element) {
  uint32_t c[4] = {uint32_t(element >> 2), uint32_t(element >> 34), 0, 0}, k[2] = {uint32_t(key[0]), uint32_t(key[1])};
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c[0], p1 = uint64_t{0xCD9E8D57u} * c[2];
    const uint32_t next[4] = {uint32_t(p1 >> 32) ^ c[1] ^ k[0], uint32_t(p1), uint32_t(p0 >> 32) ^ c[3] ^ k[1], uint32_t(p0)};
    std::memcpy(c, next, 16);
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  return c[element & 3];
}

/** One problem: operands in memory, the kernel's results, and the reference's. */
struct Problem {
  Case c;
  Floats q, k, v, dout, slopes, out, lse, dq, dk, dv;
  std::vector<int32_t> first, end;
  int32_t key[2] = {11, -5};
  AttentionGradArgs args;
  Doubles want_out, want_lse, want_dq, want_dk, want_dv;

  explicit Problem(const Case& shape) : c(shape) {
    const int64_t all = c.heads + 2 * c.groups;
    if (c.packed) {
      q = normals(c.batch * c.queries * all * c.width);
      dq = q;
    } else {
      q = normals(c.batch * c.queries * c.heads * c.width);
      k = normals(c.batch * c.keys * c.groups * c.width);
      v = normals(c.batch * c.keys * c.groups * c.value_width);
      dq = q, dk = k, dv = v;
    }
    out = normals(c.batch * c.queries * c.heads * c.value_width);
    dout = normals(c.batch * c.queries * c.heads * c.value_width);
    lse = Floats(static_cast<size_t>(c.batch * c.heads * c.queries), 0);
    slopes = normals(c.heads);
    for (float& s : slopes) s = std::fabs(s) / 4;
    if (c.intervals) {
      first.resize(static_cast<size_t>(c.batch * c.queries));
      end.resize(first.size());
      for (size_t i = 0; i < first.size(); i++) {
        end[i] = static_cast<int32_t>(pick(c.keys) + 1);
        first[i] = static_cast<int32_t>(pick(end[i]));
        if (c.intervals == 2 && pick(5) == 0) end[i] = first[i];
      }
    }
    AttentionArgs& a = args.forward;
    a.batch = c.batch, a.queries = c.queries, a.keys = c.keys, a.heads = c.heads, a.groups = c.groups;
    a.width = c.width, a.value_width = c.value_width;
    a.scale = 0.3f;
    a.causal = c.causal;
    if (c.intervals == 2) a.first = first.data();
    if (c.intervals) a.end = end.data();
    if (c.slopes) a.slopes = slopes.data();
    a.dropout = c.dropout;
    if (c.dropout > 0) a.dropout_key = key;
    const auto contiguous = [](Floats& data, int64_t time, int64_t heads, int64_t width) {
      return HeadTensor{data.data(), time * heads * width, heads * width, width};
    };
    if (c.packed) {
      const int64_t row = all * c.width;
      const auto slice = [&](Floats& data, int64_t head) { return HeadTensor{data.data() + head * c.width, c.queries * row, row, c.width}; };
      a.q = slice(q, 0), a.k = slice(q, c.heads), a.v = slice(q, c.heads + c.groups);
      args.dq = slice(dq, 0), args.dk = slice(dq, c.heads), args.dv = slice(dq, c.heads + c.groups);
    } else {
      a.q = contiguous(q, c.queries, c.heads, c.width);
      a.k = contiguous(k, c.keys, c.groups, c.width);
      a.v = contiguous(v, c.keys, c.groups, c.value_width);
      args.dq = contiguous(dq, c.queries, c.heads, c.width);
      args.dk = contiguous(dk, c.keys, c.groups, c.width);
      args.dv = contiguous(dv, c.keys, c.groups, c.value_width);
    }
    a.out = contiguous(out, c.queries, c.heads, c.value_width);
    a.lse = lse.data();
    args.dout = contiguous(dout, c.queries, c.heads, c.value_width);
    reference();
  }

  static double at(const HeadTensor& x, int64_t b, int64_t t, int64_t h, int64_t d) {
    return x.data[b * x.batch + t * x.time + h * x.head + d];
  }

  void reference() {
    const AttentionArgs& a = args.forward;
    want_out.assign(out.size(), 0);
    want_lse.assign(lse.size(), 0);
    want_dq.assign(dq.size(), 0);
    want_dk.assign(dk.size(), 0);
    want_dv.assign(dv.size(), 0);
    const auto slot = [&](Doubles& want, const Floats& base, const HeadTensor& x, int64_t b, int64_t t, int64_t h, int64_t d) -> double& {
      return want[static_cast<size_t>(x.data - base.data() + b * x.batch + t * x.time + h * x.head + d)];
    };
    Doubles& keys_want = c.packed ? want_dq : want_dk;
    Doubles& values_want = c.packed ? want_dq : want_dv;
    const Floats& keys_base = c.packed ? dq : dk;
    const Floats& values_base = c.packed ? dq : dv;
    for (int64_t b = 0; b < c.batch; b++) {
      for (int64_t h = 0; h < c.heads; h++) {
        const int64_t g = h / (c.heads / c.groups);
        for (int64_t i = 0; i < c.queries; i++) {
          const int64_t row = (b * c.heads + h) * c.queries + i;
          const int64_t to = a.end ? a.end[b * c.queries + i] : c.causal ? i + 1 + c.keys - c.queries : c.keys;
          const int64_t from = a.first ? a.first[b * c.queries + i] : 0;
          if (from >= to) {
            want_lse[row] = -INFINITY;
            continue;
          }
          Doubles p(static_cast<size_t>(c.keys)), keep(p.size(), 1), dp(p.size());
          double top = -INFINITY, sum = 0;
          for (int64_t j = from; j < to; j++) {
            double s = 0;
            for (int64_t d = 0; d < c.width; d++) s += at(a.q, b, i, h, d) * at(a.k, b, j, g, d);
            s *= a.scale;
            if (a.slopes) s -= a.slopes[h] * static_cast<double>(to - 1 - j);
            p[j] = s;
            top = std::max(top, s);
            if (c.dropout > 0) keep[j] = philox_word(key, static_cast<uint64_t>(row * c.keys + j)) >= c.dropout * 4294967296.0 ? 1 / (1.0 - c.dropout) : 0;
          }
          for (int64_t j = from; j < to; j++) sum += std::exp(p[j] - top);
          want_lse[row] = top + std::log(sum);
          double delta = 0;
          for (int64_t j = from; j < to; j++) {
            p[j] = std::exp(p[j] - want_lse[row]);
            for (int64_t d = 0; d < c.value_width; d++) {
              const double grad = at(args.dout, b, i, h, d);
              slot(want_out, out, a.out, b, i, h, d) += p[j] * keep[j] * at(a.v, b, j, g, d);
              slot(values_want, values_base, args.dv, b, j, g, d) += p[j] * keep[j] * grad;
              dp[j] += keep[j] * grad * at(a.v, b, j, g, d);
            }
            delta += p[j] * dp[j];
          }
          for (int64_t j = from; j < to; j++) {
            const double ds = p[j] * (dp[j] - delta) * a.scale;
            for (int64_t d = 0; d < c.width; d++) {
              slot(want_dq, dq, args.dq, b, i, h, d) += ds * at(a.k, b, j, g, d);
              slot(keys_want, keys_base, args.dk, b, j, g, d) += ds * at(a.q, b, i, h, d);
            }
          }
        }
      }
    }
  }

  void check(double tolerance) {
    on_any_threads([&] { attention(args.forward); }, {&out, &lse});
    CHECK_CLOSE(out, want_out, tolerance);
    CHECK_CLOSE(lse, want_lse, tolerance);
    std::vector<Floats*> gradients = {&dq};
    if (!c.packed) gradients.insert(gradients.end(), {&dk, &dv});
    on_any_threads([&] { attention_grad(args); }, gradients);
    CHECK_CLOSE(dq, want_dq, tolerance);
    CHECK_CLOSE(dk, want_dk, tolerance);
    CHECK_CLOSE(dv, want_dv, tolerance);
  }
};

} // namespace

namespace {

const Case kCases[] = {
    {2, 5, 5, 2, 2, 8, 8, true, 0, false, 0, false},
    {1, 33, 33, 3, 3, 64, 64, true, 0, false, 0, true},
    {2, 150, 150, 2, 2, 32, 32, true, 0, false, 0, true},
    {1, 70, 200, 4, 2, 20, 12, true, 0, false, 0, false},   // odd widths, shared keys, a cache in front
    {2, 131, 77, 3, 1, 16, 40, false, 0, false, 0, false},  // cross-attention
    {3, 60, 60, 2, 1, 64, 64, false, 1, false, 0, true},    // variable lengths
    {2, 90, 140, 2, 2, 24, 24, false, 2, false, 0, false},  // intervals, some empty
    {2, 67, 67, 4, 4, 16, 16, true, 0, true, 0, true},      // ALiBi
    {2, 67, 90, 4, 2, 16, 16, true, 2, true, 0.3f, false},  // all at once
    {1, 200, 200, 2, 2, 32, 32, true, 0, false, 0.2f, true},
    {9, 40, 40, 1, 1, 130, 130, true, 0, false, 0, true},   // wider than a register tile
};

} // namespace

TEST("attention and its gradient equal the full matrix of scores") {
  for (const Case& c : kCases) Problem(c).check(4e-6);
}

TEST("few heads over long sequences are cut by keys and by queries with the same result") {
  Problem({1, 300, 300, 2, 1, 16, 16, true, 0, false, 0.1f, false}).check(4e-6);
  Problem({1, 500, 260, 1, 1, 16, 16, false, 2, false, 0, false}).check(4e-6);
}

TEST("decoding one or two queries against a cache equals the full matrix") {
  for (const int64_t queries : {1, 2}) {
    Problem({3, queries, 133, 6, 2, 64, 64, true, 0, false, 0, false}).check(4e-6);
    Problem({3, queries, 70, 4, 4, 20, 12, false, 2, true, 0.2f, false}).check(4e-6);
  }
}

TEST("scores of -inf and huge scores do not make NaN") {
  Problem p({1, 20, 20, 1, 1, 8, 8, true, 0, false, 0, false});
  for (float& x : p.q) x *= 1e4f;
  p.reference();
  attention(p.args.forward);
  CHECK_CLOSE(p.out, p.want_out, 1e-5);
  for (float x : p.out) CHECK(std::isfinite(x));
}

TEST("bf16 attention stays within the rounding of its operands") {
  for (const Case& c : kCases) {
    Problem p(c);
    p.args.forward.bf16_compute = true;
    p.check(2e-2);
  }
}
