// Measures the fused kernels: howdah_kernel_test bench nn
#include <array>
#include <chrono>
#include <ctime>

#include "gemm.hpp"
#include "nn_test.hpp"

using namespace howdah;
using namespace howdah::test;

namespace {

/** Seconds on the clock, or, with one thread, of processor time, which neighbours on the machine disturb less. */
double now() {
  if (thread_count() == 1) return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/** Best seconds of several runs. */
double best(const std::function<void()>& run, int runs = 12) {
  double least = 1e9;
  for (int i = 0; i < runs; i++) {
    const double start = now();
    run();
    least = std::min(least, now() - start);
  }
  return least;
}

void report(const char* what, double seconds, double bytes, double flops = 0) {
  std::printf("  %-44s %9.1f us", what, seconds * 1e6);
  if (bytes > 0) std::printf("  %6.1f GB/s", bytes / seconds * 1e-9);
  if (flops > 0) std::printf("  %6.1f GFLOP/s", flops / seconds * 1e-9);
  std::printf("\n");
}

void bench_attention(const char* name, int64_t batch, int64_t time, int64_t heads, int64_t width, bool bf16) {
  const int64_t row = 3 * heads * width;
  Floats qkv = normals(batch * time * row), dqkv = qkv, out(static_cast<size_t>(batch * time * heads * width)), dout = out;
  Floats lse(static_cast<size_t>(batch * heads * time));
  for (float& x : dout) x = normal();
  AttentionGradArgs g{};
  AttentionArgs& a = g.forward;
  a.batch = batch, a.queries = a.keys = time, a.heads = a.groups = heads, a.width = a.value_width = width;
  const auto slice = [&](Floats& x, int64_t i) { return HeadTensor{x.data() + i * heads * width, time * row, row, width}; };
  a.q = slice(qkv, 0), a.k = slice(qkv, 1), a.v = slice(qkv, 2);
  a.scale = 0.125f, a.causal = true, a.bf16_compute = bf16;
  a.out = {out.data(), time * heads * width, heads * width, width};
  a.lse = lse.data();
  g.dout = {dout.data(), time * heads * width, heads * width, width};
  g.dq = slice(dqkv, 0), g.dk = slice(dqkv, 1), g.dv = slice(dqkv, 2);
  const double pairs = static_cast<double>(batch * heads) * static_cast<double>(time) * static_cast<double>(time + 1) / 2;
  const double forward = best([&] { attention(a); }, 6), backward = best([&] { attention_grad(g); }, 6);
  const std::string label = std::string(name) + (bf16 ? " bf16" : " f32");
  report((label + " forward").c_str(), forward, 0, pairs * 4 * static_cast<double>(width));
  report((label + " backward").c_str(), backward, 0, pairs * 10 * static_cast<double>(width));
  report((label + " both").c_str(), forward + backward, 0, pairs * 14 * static_cast<double>(width));
}

} // namespace

BENCH("nn attention") {
  for (const bool bf16 : {false, true}) {
    bench_attention("attention 4 x 1024 x 12 x 64", 4, 1024, 12, 64, bf16);
    bench_attention("attention 64 x 256 x 6 x 64", 64, 256, 6, 64, bf16);
    bench_attention("attention 1 x 1024 x 8 x 64", 1, 1024, 8, 64, bf16);
    bench_attention("attention 2 x 256 x 6 x 64", 2, 256, 6, 64, bf16);
    bench_attention("attention 12 x 64 x 4 x 32", 12, 64, 4, 32, bf16);
  }
}

// One layer of an encoder as the executor runs it: 32 rows of 128 tokens, width 768, 12 heads, products in bf16 where the processor has them.
BENCH("nn encoder layer") {
  const int64_t batch = 32, time = 128, width = 768, heads = 12, inner = 3072, rows = batch * time, layers = 3, turns = 5;
  const bool bf16 = has_bf16_dot();
  const Type narrow = bf16 ? Type::bf16 : Type::f32;
  const int64_t size = bf16 ? 2 : 4;
  Floats x = normals(rows * width), sum = x, h = x, qkv(static_cast<size_t>(rows * 3 * width)), attended = x, up(static_cast<size_t>(rows * inner)), ones(static_cast<size_t>(inner), 0.02f);
  Floats lse(static_cast<size_t>(rows * heads));
  std::vector<Floats> weights;
  for (int64_t i = 0; i < 4 * layers; i++) {
    Floats w(static_cast<size_t>(width * std::array<int64_t, 4>{3 * width, width, inner, inner}[static_cast<size_t>(i % 4)]));
    for (float& v : w) v = 0.02f * uniform();
    weights.push_back(std::move(w));
  }
  const auto product = [&](const Floats& a, Type ta, int64_t k, const Floats& w, int64_t n, Floats& c, Type tc, Activation activation, const float* residual) {
    GemmArgs g;
    g.m = rows, g.n = n, g.k = k;
    g.a = a.data(), g.ta = ta, g.lda = k;
    g.b = w.data(), g.ldb = k, g.trans_b = true;
    g.c = c.data(), g.tc = tc, g.ldc = n, g.bf16_compute = bf16;
    g.epilogue.bias = ones.data(), g.epilogue.activation = activation, g.epilogue.residual = residual, g.epilogue.ldr = n;
    gemm(g);
  };
  AttentionArgs a{};
  a.batch = batch, a.queries = a.keys = time, a.heads = a.groups = heads, a.width = a.value_width = 64;
  const auto slice = [&](int64_t i) {
    return HeadTensor{reinterpret_cast<float*>(reinterpret_cast<char*>(qkv.data()) + i * width * size), time * 3 * width, 3 * width, 64, bf16};
  };
  a.q = slice(0), a.k = slice(1), a.v = slice(2);
  a.scale = 0.125f, a.bf16_compute = bf16;
  a.out = {attended.data(), time * width, width, 64, bf16};
  a.lse = lse.data();
  const char* names[] = {"qkv 2304 x 768", "attention", "out 768 x 768, residual", "norm", "up 3072 x 768, gelu", "down 768 x 3072, residual", "norm"};
  double least[7], all = 1e9;
  std::fill_n(least, 7, 1e9);
  for (int64_t turn = 0; turn < turns; turn++) {
    const double begin = now();
    for (int64_t layer = 0; layer < layers; layer++) {
      const Floats* const w = &weights[static_cast<size_t>(4 * layer)];
      double start = now();
      int i = 0;
      const auto lap = [&] {
        const double end = now();
        least[i] = std::min(least[i], end - start), i++, start = end;
      };
      product(x, Type::f32, width, w[0], 3 * width, qkv, narrow, Activation::none, nullptr), lap();
      attention(a), lap();
      product(attended, narrow, width, w[1], width, sum, Type::f32, Activation::none, x.data()), lap();
      layer_norm({rows, width, sum.data(), ones.data(), ones.data(), 1e-5f, h.data(), nullptr, nullptr}), lap();
      product(h, Type::f32, width, w[2], inner, up, narrow, Activation::gelu_erf, nullptr), lap();
      product(up, narrow, inner, w[3], width, sum, Type::f32, Activation::none, h.data()), lap();
      layer_norm({rows, width, sum.data(), ones.data(), ones.data(), 1e-5f, x.data(), nullptr, nullptr}), lap();
    }
    all = std::min(all, (now() - begin) / layers);
  }
  const double mn = 2.0 * static_cast<double>(rows * width);
  const double flops[] = {mn * 2304, 4.0 * static_cast<double>(batch * heads * time * time * 64), mn * 768, 0, mn * 3072, mn * 3072, 0};
  for (int i = 0; i < 7; i++) report(names[i], least[i], 0, flops[i]);
  double total = 0;
  for (double f : flops) total += f;
  report("layer", all, 0, total);
}

BENCH("nn rows") {
  for (const auto& shape : {std::pair<int64_t, int64_t>{768, 128}, {16384, 384}, {1024, 768}}) {
    const int64_t rows = shape.first, columns = shape.second;
    const int64_t n = rows * columns;
    const double size = static_cast<double>(n) * 4;
    std::printf("  %lld x %lld\n", static_cast<long long>(rows), static_cast<long long>(columns));
    Floats x = normals(n), y = x, dy = normals(n), dx = x, scale = normals(columns), bias = scale, mean(static_cast<size_t>(rows)), rstd = mean, ds = scale, db = bias;
    report("layer_norm", best([&] { layer_norm({rows, columns, x.data(), scale.data(), bias.data(), 1e-5f, y.data(), mean.data(), rstd.data()}); }), 2 * size);
    report("layer_norm_grad", best([&] {
             layer_norm_grad({rows, columns, dy.data(), x.data(), scale.data(), mean.data(), rstd.data(), dx.data(), ds.data(), db.data()});
           }), 3 * size);
    report("rms_norm", best([&] { rms_norm({rows, columns, x.data(), scale.data(), 1e-5f, y.data(), rstd.data()}); }), 2 * size);
    report("softmax", best([&] { softmax({rows, columns, x.data(), y.data()}); }), 2 * size);
    const auto region = [&](const char* name, std::vector<Ew> ops, bool second) {
      EwRegion r;
      r.shape = {rows, columns};
      r.inputs = {{DType::f32, {columns, 1}}};
      if (second) r.inputs.push_back({DType::f32, {columns, 1}});
      for (Ew op : ops) {
        EwNode node{op, DType::f32};
        node.operand[0] = static_cast<int32_t>(r.nodes.empty() ? 0 : r.inputs.size() + r.nodes.size() - 1);
        if (second) node.operand[1] = 1;
        r.nodes.push_back(node);
      }
      r.outputs = {{static_cast<int32_t>(r.inputs.size() + r.nodes.size() - 1)}};
      const auto plan = plan_elementwise(r);
      const void* in[] = {x.data(), dy.data()};
      void* out[] = {y.data()};
      report(name, best([&] { run_elementwise({plan.get(), in, out}); }), (second ? 3 : 2) * size);
    };
    region("add", {Ew::add}, true);
    region("gelu_tanh", {Ew::gelu_tanh}, false);
    region("gelu", {Ew::gelu}, false);
    region("gelu_tanh_grad", {Ew::gelu_tanh_grad}, true);
    region("exponential, log, tanh", {Ew::exponential, Ew::log, Ew::tanh}, false);
    region("four adds", {Ew::add, Ew::add, Ew::add, Ew::add}, true);
  }
}

BENCH("nn losses, embedding, optimizer, search") {
  for (const auto& shape : {std::array<int64_t, 3>{16384, 384, 65}, {1024, 768, 50257}, {768, 128, 512}}) {
    const int64_t rows = shape[0], channels = shape[1], classes = shape[2];
    Floats h = normals(rows * channels), w = normals(classes * channels), dloss(static_cast<size_t>(rows), 1e-3f), loss = dloss, lse = dloss, dh = h, dw = w;
    for (float& x : w) x *= 0.02f;
    std::vector<int32_t> targets(static_cast<size_t>(rows));
    for (int32_t& t : targets) t = static_cast<int32_t>(pick(classes));
    for (const bool bf16 : {false, true}) {
      LinearCrossEntropyGradArgs g{rows, channels, classes, h.data(), w.data(), targets.data(), nullptr, dloss.data(), bf16, dh.data(), dw.data(), loss.data(), lse.data()};
      report((std::to_string(rows) + " x " + std::to_string(channels) + " x " + std::to_string(classes) + (bf16 ? " bf16" : " f32")).c_str(),
             best([&] { linear_cross_entropy_grad(g); }, 3), 0, 6.0 * static_cast<double>(rows * channels) * static_cast<double>(classes));
    }
    report("embedding_grad", best([&] { embedding_grad({rows, channels, classes, h.data(), targets.data(), dw.data()}); }),
           4.0 * static_cast<double>((rows + classes) * channels));
  }
  for (const int64_t n : {int64_t{800000}, int64_t{10700000}, int64_t{124000000}}) {
    Floats p(static_cast<size_t>(n), 0.1f), m = p, v = p, g = p;
    const AdamWTensor t{p.data(), m.data(), v.data(), g.data(), n, true};
    report(("adamw " + std::to_string(n)).c_str(), best([&] { adamw({&t, 1, 1e-3f, 1, 0.1f, 0.001f, 0.9, 0.999, 1e-8, 0.1}); }, 5), 28.0 * static_cast<double>(n));
    const void* x = g.data();
    float norm;
    report(("global_norm " + std::to_string(n)).c_str(), best([&] { global_norm({&x, &n, 1, &norm}); }, 5), 4.0 * static_cast<double>(n));
  }
  for (const int64_t k : {1, 50}) {
    Floats x = normals(200000), values(50);
    std::vector<int32_t> indices(50);
    report(k == 1 ? "top 1 of 200000" : "top 50 of 200000", best([&] { top_k({1, 200000, k, x.data(), values.data(), indices.data()}); }), 800000);
  }
}
