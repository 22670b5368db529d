// Matrix multiplication against plain loops in double.
#include "gemm.hpp"

#include <time.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "isa.hpp"
#include "pool.hpp"
#include "test.hpp"

using namespace howdah;

namespace {

std::mt19937 engine(1);
float uniform() { return std::uniform_real_distribution<float>(-1, 1)(engine); }
int pick(int n) { return (int)(engine() % (unsigned)n); }

uint16_t to_bf16(float x) {
  uint32_t b;
  std::memcpy(&b, &x, 4);
  return (uint16_t)((b + 0x7fff + (b >> 16 & 1)) >> 16);
}
float from_bf16(uint16_t h) {
  const uint32_t b = (uint32_t)h << 16;
  float x;
  std::memcpy(&x, &b, 4);
  return x;
}

/** A matrix (or several) in memory of its own type, ending exactly where its last row does. */
struct Matrix {
  Type type;
  int64_t ld, stride;
  std::vector<float> f;
  std::vector<uint16_t> h;

  Matrix(Type type, int64_t batch, int64_t rows, int64_t columns, int64_t extra, bool shared)
      : type(type), ld(columns + extra), stride(shared ? 0 : rows * ld + extra) {
    const int64_t size = std::max<int64_t>(0, (batch - 1) * stride + (rows - 1) * ld + columns);
    if (type == Type::f32) {
      f.resize((size_t)size);
      for (auto& x : f) x = uniform();
    } else {
      h.resize((size_t)size);
      for (auto& x : h) x = to_bf16(uniform());
    }
  }
  double at(int64_t i, int64_t r, int64_t c) const {
    const size_t p = (size_t)(i * stride + r * ld + c);
    return type == Type::f32 ? (double)f[p] : (double)from_bf16(h[p]);
  }
  const void* data() const { return type == Type::f32 ? (const void*)f.data() : h.data(); }
  void* data() { return type == Type::f32 ? (void*)f.data() : h.data(); }
  bool operator==(const Matrix& other) const {
    return f.size() == other.f.size() && h == other.h &&
           (f.empty() || std::memcmp(f.data(), other.f.data(), f.size() * 4) == 0);
  }
};

double activation(Activation kind, double x) {
  switch (kind) {
    case Activation::none: return x;
    case Activation::gelu_tanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::gelu_erf: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::relu: return x < 0 ? 0 : x;
  }
  return x;
}

/** By central differences. */
double slope(Activation kind, double x) { return (activation(kind, x + 1e-5) - activation(kind, x - 1e-5)) / 2e-5; }

struct Case {
  int64_t batch = 1, m, n, k;
  Type ta = Type::f32, tb = Type::f32, tc = Type::f32;
  bool trans_a = false, trans_b = false, bf16_compute = false;
  float alpha = 1, beta = 0;
  bool bias = false, pre = false, residual = false, residual_is_c = false, share_a = false, share_b = false, gradient = false,
       gradient_is_c = false, sums = false, totals = false;
  Activation act = Activation::none;
  int64_t extra = 0;

  std::string name() const {
    char text[256];
    std::snprintf(text, sizeof text,
                  "batch %d %dx%dx%d %s%s types %d%d%d bf16 %d alpha %g beta %g bias %d pre %d residual %d%d act %d gradient %d%d sums %d%d extra %d", (int)batch,
                  (int)m, (int)n, (int)k, trans_a ? "T" : "N", trans_b ? "T" : "N", (int)ta, (int)tb, (int)tc, bf16_compute, alpha,
                  beta, bias, pre, residual, residual_is_c, (int)act, gradient, gradient_is_c, sums, totals, (int)extra);
    return text;
  }
};

/** Runs the case on two threads, one thread and inline: the same bits each time, and those of the reference nearly. */
void check(const Case& t) {
  const Matrix a(t.ta, t.batch, t.trans_a ? t.k : t.m, t.trans_a ? t.m : t.k, t.extra, t.share_a);
  const Matrix b(t.tb, t.batch, t.trans_b ? t.n : t.k, t.trans_b ? t.k : t.n, t.extra, t.share_b);
  const Matrix before(t.tc, t.batch, t.m, t.n, t.extra, false);
  Matrix pre_before(Type::f32, t.batch, t.m, t.n, t.extra, false);
  const Matrix bias(Type::f32, 1, 1, t.n, 0, false);
  Matrix residual(Type::f32, t.batch, t.m, t.n, t.extra, false);

  const Matrix at(t.gradient_is_c ? t.tc : Type::f32, t.batch, t.m, t.n, t.extra, false);
  const auto run = [&](Matrix& c, Matrix& pre, std::vector<float>& sums, std::vector<float>& totals, bool in_line) {
    GemmArgs g;
    g.batch = t.batch, g.m = t.m, g.n = t.n, g.k = t.k;
    g.a = a.data(), g.ta = t.ta, g.lda = a.ld, g.trans_a = t.trans_a, g.stride_a = a.stride;
    g.b = b.data(), g.tb = t.tb, g.ldb = b.ld, g.trans_b = t.trans_b, g.stride_b = b.stride;
    g.c = c.data(), g.tc = t.tc, g.ldc = c.ld, g.stride_c = c.stride;
    g.alpha = t.alpha, g.beta = t.beta, g.bf16_compute = t.bf16_compute;
    if (t.bias) g.epilogue.bias = (const float*)bias.data();
    if (t.pre) g.epilogue.pre_activation = pre.data();
    if (t.gradient) {
      g.epilogue.gradient_at = t.gradient_is_c ? c.data() : at.data();
      g.epilogue.gradient_type = at.type;
    }
    if (t.sums) g.b_sums = sums.data();
    if (t.totals) g.epilogue.result_sums = totals.data();
    g.epilogue.activation = t.act;
    if (t.residual) {
      g.epilogue.residual = (const float*)(t.residual_is_c ? c.data() : residual.data());
      g.epilogue.ldr = residual.ld;
    }
    in_line ? gemm_inline(g) : gemm(g);
  };
  Matrix c = before, pre = pre_before, c1 = before, pre1 = pre_before, c2 = before, pre2 = pre_before;
  std::vector<float> sums((size_t)t.n, 7.0f), sums1 = sums, sums2 = sums, totals = sums, totals1 = sums, totals2 = sums;
  limit_threads(99);
  run(c, pre, sums, totals, false);
  limit_threads(1);
  run(c1, pre1, sums1, totals1, false);
  limit_threads(99);
  run(c2, pre2, sums2, totals2, true);
  CHECK_MESSAGE(sums == sums1 && sums == sums2, "the sums of B's columns differ: " + t.name());
  CHECK_MESSAGE(totals == totals1 && totals == totals2, "the sums of the result's columns differ: " + t.name());
  for (int64_t col = 0; t.sums && col < t.n; col++) {
    double sum = 0, magnitude = 0;
    for (int64_t q = 0; q < t.k; q++) {
      const double x = t.trans_b ? b.at(0, col, q) : b.at(0, q, col);
      sum += x, magnitude += std::fabs(x);
    }
    CHECK_MESSAGE(std::fabs(sums[(size_t)col] - sum) <= 4e-6 * (magnitude + 1), "a sum of B's column is wrong: " + t.name());
  }
  CHECK_MESSAGE(c == c1 && pre == pre1, "one thread gives other bits than all: " + t.name());
  CHECK_MESSAGE(c == c2 && pre == pre2, "gemm_inline gives other bits than gemm: " + t.name());

  const bool rounded = t.bf16_compute && has_bf16_dot();
  const auto operand = [&](double x) { return rounded ? (double)from_bf16(to_bf16((float)x)) : x; };
  double worst = 0;
  std::vector<double> total((size_t)t.n), allowed((size_t)t.n);
  for (int64_t i = 0; i < t.batch; i++)
    for (int64_t r = 0; r < t.m; r++)
      for (int64_t col = 0; col < t.n; col++) {
        double sum = 0, magnitude = 0;
        for (int64_t q = 0; q < t.k; q++) {
          const double p = operand(t.trans_a ? a.at(i, q, r) : a.at(i, r, q)) * operand(t.trans_b ? b.at(i, col, q) : b.at(i, q, col));
          sum += p, magnitude += std::fabs(p);
        }
        double y = t.alpha * sum;
        if (t.beta != 0) y += t.beta * before.at(i, r, col);
        if (t.bias) y += bias.at(0, 0, col);
        const double tolerance = 2e-6 * (std::fabs(t.alpha) * magnitude + 2);
        if (t.pre) worst = std::max(worst, std::fabs(pre.at(i, r, col) - y) / tolerance);
        if (t.gradient) y *= slope(t.act, t.gradient_is_c ? before.at(i, r, col) : at.at(i, r, col));
        else y = activation(t.act, y);
        if (t.residual) y += t.residual_is_c ? before.at(i, r, col) : residual.at(i, r, col);
        total[(size_t)col] += y, allowed[(size_t)col] += 1.2 * tolerance + 4e-6 * std::fabs(y);
        const double rounding = t.tc == Type::bf16 ? std::fabs(y) / 250 : 0;
        worst = std::max(worst, std::fabs(c.at(i, r, col) - y) / (1.2 * tolerance + rounding));
      }
  CHECK_MESSAGE(worst <= 1, "off by " + std::to_string(worst) + " tolerances: " + t.name());
  // What lies between the rows stays as it was.
  for (size_t p = 0; t.extra > 0 && p < c.f.size(); p++) {
    const int64_t in_matrix = c.stride ? (int64_t)p % c.stride : (int64_t)p;
    if (in_matrix % c.ld < t.n && in_matrix / c.ld < t.m) continue;
    if (c.f[p] != before.f[p]) return CHECK_MESSAGE(false, "wrote outside of C: " + t.name());
  }
}

Case random_case(int largest) {
  Case t;
  const auto size = [&] {
    switch (pick(4)) {
      case 0: return 1 + pick(9);
      case 1: return 1 + pick(40);
      default: return 1 + pick(largest);
    }
  };
  t.m = size(), t.n = size(), t.k = pick(30) == 0 ? 0 : size();
  t.batch = pick(3) ? 1 : 1 + pick(5);
  if (pick(3) == 0) t.ta = Type::bf16;
  if (pick(3) == 0) t.tb = Type::bf16;
  if (pick(4) == 0) t.tc = Type::bf16;
  t.trans_a = pick(2), t.trans_b = pick(2);
  t.bf16_compute = pick(2);
  if (pick(4) == 0) t.alpha = 0.25f;
  if (pick(4) == 0) t.beta = 1;
  if (pick(3) == 0) t.bias = true;
  if (pick(3) == 0) t.act = (Activation)pick(5);
  if (pick(4) == 0) t.pre = true;
  if (pick(4) == 0) t.residual = true, t.residual_is_c = t.tc == Type::f32 && pick(2);
  if (t.act != Activation::none && t.act != Activation::relu && !t.pre && pick(2)) {
    t.gradient = true;
    t.gradient_is_c = t.beta == 0 && !t.residual_is_c && pick(2);
  }
  t.sums = t.batch == 1 && pick(3) == 0;
  t.totals = t.batch == 1 && pick(3) == 0;
  t.share_a = t.batch > 1 && pick(4) == 0, t.share_b = t.batch > 1 && pick(3) == 0;
  t.extra = pick(2) ? pick(20) : 0;
  return t;
}

} // namespace

TEST("gemm: random shapes, layouts, types and epilogues equal the double loops; any number of threads gives the same bits") {
  engine.seed(7);
  for (int i = 0; i < 400; i++) check(random_case(i % 10 == 0 ? 200 : 90));
}

TEST("gemm: several blocks of k, with partial sums in C and beside it") {
  engine.seed(8);
  for (int i = 0; i < 24; i++) {
    Case t = random_case(70);
    t.batch = 1;
    t.m = 9 + pick(60), t.n = 9 + pick(60), t.k = 1000 + pick(1040);
    check(t);
  }
}

TEST("gemm: long k with a small result goes in several spans of k") {
  engine.seed(9);
  for (int i = 0; i < 12; i++) {
    Case t = random_case(30);
    t.m = 9 + pick(20), t.n = 9 + pick(20), t.k = 2048 + pick(3000), t.batch = 1;
    check(t);
  }
}

TEST("gemm: thin products of all widths") {
  engine.seed(10);
  for (int i = 0; i < 64; i++) {
    Case t = random_case(300);
    t.batch = 1;
    (i % 2 ? t.m : t.n) = 1 + i / 2 % 8;
    (i % 2 ? t.n : t.m) = 1 + pick(400);
    t.k = 1 + pick(600);
    check(t);
  }
}

TEST("gemm: sizes around the tile and enough work for all threads") {
  engine.seed(11);
  for (int i = 0; i < 16; i++) {
    Case t = random_case(10);
    t.batch = 1;
    t.m = 90 + pick(200), t.n = 60 + pick(200), t.k = 100 + pick(100);
    check(t);
  }
}

TEST("gemm: operands beyond the second-level cache, with blocks of rows that get smaller towards the end") {
  engine.seed(12);
  for (int i = 0; i < 4; i++) {
    Case t = random_case(10);
    t.batch = 1;
    t.m = 690 + pick(60), t.n = 690 + pick(60), t.k = 790 + pick(30);
    t.trans_a = i % 2, t.bf16_compute = i < 2, t.totals = false;
    check(t);
  }
}

TEST("gemm: NaN and infinity come through; with beta 0, what C held does not") {
  for (const int64_t m : {1, 5, 40}) {
    const int64_t n = 33, k = 20;
    std::vector<float> a((size_t)(m * k), 1), b((size_t)(k * n), 1), c((size_t)(m * n), NAN);
    a[3] = INFINITY;
    b[5] = NAN;
    GemmArgs g;
    g.m = m, g.n = n, g.k = k, g.a = a.data(), g.lda = k, g.b = b.data(), g.ldb = n, g.c = c.data(), g.ldc = n;
    gemm(g);
    for (int64_t i = 0; i < m; i++)
      for (int64_t j = 0; j < n; j++) {
        const float x = c[(size_t)(i * n + j)];
        CHECK(j == 5 ? std::isnan(x) : i == 0 ? x == INFINITY : x == 20);
      }
  }
}

TEST("gemm: called inside a task of the pool") {
  engine.seed(12);
  const int64_t n = 150;
  const Matrix a(Type::f32, 1, n, n, 0, false), b(Type::f32, 1, n, n, 0, false);
  std::vector<std::vector<float>> c(4, std::vector<float>((size_t)(n * n)));
  const auto run = [&](float* to) {
    GemmArgs g;
    g.m = g.n = g.k = n, g.a = a.data(), g.lda = n, g.b = b.data(), g.ldb = n, g.c = to, g.ldc = n;
    gemm(g);
  };
  run(c[0].data());
  parallel_for(3, [&](int64_t task, int) { run(c[(size_t)task + 1].data()); });
  for (int i = 1; i < 4; i++) CHECK(c[0] == c[(size_t)i]);
}

// ---- Measurements ----

namespace {

/** Seconds: of the clock; or with one thread of that thread's own time, which busy neighbours distort less. */
double now() {
#ifdef CLOCK_THREAD_CPUTIME_ID
  if (thread_count() == 1) {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
  }
#endif
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/** GFLOP/s, the best of runs for about a tenth of a second. */
void measure(const char* label, int64_t m, int64_t n, int64_t k, bool ta, bool tb, Type type, bool bf16, int threads) {
  limit_threads(threads);
  const Matrix a(type, 1, ta ? k : m, ta ? m : k, 0, false), b(type, 1, tb ? n : k, tb ? k : n, 0, false);
  Matrix c(Type::f32, 1, m, n, 0, false);
  GemmArgs g;
  g.m = m, g.n = n, g.k = k;
  g.a = a.data(), g.ta = type, g.lda = a.ld, g.trans_a = ta;
  g.b = b.data(), g.tb = type, g.ldb = b.ld, g.trans_b = tb;
  g.c = c.data(), g.ldc = n, g.bf16_compute = bf16;
  gemm(g);
  double best = 1e9;
  const double work = 2.0 * (double)m * (double)n * (double)k;
  const int inner = work < 2e8 ? (int)(2e8 / work) + 1 : 1;
  const double end = now() + 0.12;
  do {
    const double start = now();
    for (int i = 0; i < inner; i++) gemm(g);
    best = std::min(best, (now() - start) / inner);
  } while (now() < end);
  std::printf("  %-10s %6d x %5d x %5d %s%s %s -> %s, %d threads %8.1f GFLOP/s  %9.1f us\n", label, (int)m, (int)n, (int)k,
              ta ? "T" : "N", tb ? "T" : "N", type == Type::f32 ? "f32 " : "bf16", bf16 ? "bf16" : "f32 ", thread_count(), work / best / 1e9,
              best * 1e6);
  std::fflush(stdout);
  limit_threads(99);
}

void measure_layer(const char* label, int64_t tokens, int64_t in, int64_t out, bool bf16, int threads) {
  measure(label, tokens, out, in, false, false, Type::f32, bf16, threads); // x W
  measure(label, tokens, in, out, false, true, Type::f32, bf16, threads);  // dy W^T
  measure(label, in, out, tokens, true, false, Type::f32, bf16, threads);  // x^T dy
}

} // namespace

BENCH("gemm main") {
  for (const bool bf16 : {false, true}) {
    if (bf16 && !has_bf16_dot()) continue;
    for (int layout = 0; layout < 3; layout++)
      measure("notes", 4096, 768, 768, layout == 2, layout == 1, Type::f32, bf16, 2);
    measure("notes", 4096, 3072, 768, false, false, Type::f32, bf16, 2);
    measure("notes", 4096, 768, 3072, false, false, Type::f32, bf16, 2);
    measure("notes", 16384, 384, 384, false, false, Type::f32, bf16, 2);
    measure("notes", 512, 512, 512, false, false, Type::f32, bf16, 2);
    for (int layout = 0; layout < 3; layout++)
      measure("notes", 64, 64, 64, layout == 2, layout == 1, Type::f32, bf16, 1);
    measure("wgrad", 384, 384, 16384, true, false, Type::f32, bf16, 2);
  }
}
BENCH("gemm layers") {
  for (const bool bf16 : {false, true}) {
    if (bf16 && !has_bf16_dot()) continue;
    for (const auto& [in, out] : {std::pair{128, 384}, {128, 128}, {128, 512}, {512, 128}})
      measure_layer("4x128", 768, in, out, bf16, 2);
    for (const auto& [in, out] : {std::pair{384, 1152}, {384, 384}, {384, 1536}, {1536, 384}})
      measure_layer("6x384", 16384, in, out, bf16, 2);
    for (const auto& [in, out] : {std::pair{768, 2304}, {768, 768}, {768, 3072}, {3072, 768}})
      measure_layer("gpt2", 1024, in, out, bf16, 2);
  }
}
BENCH("gemm thin") {
  for (const bool bf16 : {false, true}) {
    if (bf16 && !has_bf16_dot()) continue;
    for (const int64_t m : {1, 2, 4, 8, 9, 16, 32, 64})
      for (const bool tb : {false, true}) measure("decode", m, 3072, 768, false, tb, bf16 ? Type::bf16 : Type::f32, bf16, 2);
  }
}
