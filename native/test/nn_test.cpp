// The fused kernels against plain loops in double, and their gradients against central differences.
#include "nn_test.hpp"

using namespace howdah;
using namespace howdah::test;

namespace {

Floats filled(int64_t n) { return Floats(static_cast<size_t>(n), 12345.0f); }

/** Rows and columns that leave odd tails for every vector width. */
const int64_t kShapes[][2] = {{1, 1}, {3, 5}, {7, 64}, {2, 129}, {130, 33}, {1000, 48}, {5, 4097}};

// ---- References: loops over rows in double ----

Doubles softmax_reference(const Doubles& x, int64_t columns) {
  Doubles y(x.size());
  for (size_t r = 0; r < x.size(); r += static_cast<size_t>(columns)) {
    double top = -INFINITY, sum = 0;
    for (int64_t i = 0; i < columns; i++) top = std::max(top, x[r + i]);
    for (int64_t i = 0; i < columns; i++) sum += y[r + i] = std::exp(x[r + i] - top);
    for (int64_t i = 0; i < columns; i++) y[r + i] /= sum;
  }
  return y;
}
Doubles log_softmax_reference(const Doubles& x, int64_t columns) {
  Doubles y(x.size());
  for (size_t r = 0; r < x.size(); r += static_cast<size_t>(columns)) {
    double top = -INFINITY, sum = 0;
    for (int64_t i = 0; i < columns; i++) top = std::max(top, x[r + i]);
    for (int64_t i = 0; i < columns; i++) sum += std::exp(x[r + i] - top);
    for (int64_t i = 0; i < columns; i++) y[r + i] = x[r + i] - top - std::log(sum);
  }
  return y;
}
Doubles norm_reference(const Doubles& x, const Doubles& scale, const Doubles& bias, int64_t columns, double epsilon, bool center) {
  Doubles y(x.size());
  for (size_t r = 0; r < x.size(); r += static_cast<size_t>(columns)) {
    double mean = 0, square = 0;
    for (int64_t i = 0; i < columns; i++) mean += x[r + i] / columns;
    if (!center) mean = 0;
    for (int64_t i = 0; i < columns; i++) square += (x[r + i] - mean) * (x[r + i] - mean) / columns;
    for (int64_t i = 0; i < columns; i++) {
      y[r + i] = (x[r + i] - mean) / std::sqrt(square + epsilon) * (scale.empty() ? 1 : scale[i]) + (bias.empty() ? 0 : bias[i]);
    }
  }
  return y;
}
/** Mean over nothing: the sum of dloss * cross-entropy. */
double cross_entropy_reference(const Doubles& logits, int64_t classes, const std::vector<int32_t>& targets, const Floats& dloss, Floats* loss = nullptr) {
  const Doubles y = log_softmax_reference(logits, classes);
  double sum = 0;
  for (size_t r = 0; r < targets.size(); r++) {
    const double l = targets[r] < 0 ? 0 : -y[r * classes + targets[r]];
    if (loss) (*loss)[r] = static_cast<float>(l);
    sum += dloss[r] * l;
  }
  return sum;
}
Doubles logits_reference(const Doubles& h, const Doubles& w, int64_t channels) {
  const size_t rows = h.size() / channels, classes = w.size() / channels;
  Doubles logits(rows * classes);
  for (size_t r = 0; r < rows; r++)
    for (size_t v = 0; v < classes; v++)
      for (int64_t c = 0; c < channels; c++) logits[r * classes + v] += h[r * channels + c] * w[v * channels + c];
  return logits;
}

} // namespace

TEST("softmax and log-softmax equal their definitions") {
  for (const auto& shape : kShapes) {
    const int64_t rows = shape[0], columns = shape[1];
    const Floats x = normals(rows * columns);
    Floats y = filled(rows * columns), log_y = filled(rows * columns);
    on_any_threads(
        [&] {
          softmax({rows, columns, x.data(), y.data()});
          log_softmax({rows, columns, x.data(), log_y.data()});
        },
        {&y, &log_y});
    CHECK_CLOSE(y, softmax_reference(widen(x), columns), 1e-6);
    CHECK_CLOSE(log_y, log_softmax_reference(widen(x), columns), 1e-6);
    // In place.
    Floats z = x;
    softmax({rows, columns, z.data(), z.data()});
    CHECK(z == y);
  }
}

TEST("softmax gives exact zeros at -inf and keeps huge logits finite") {
  Floats x = {-INFINITY, 1e38f, 0, -1e38f}, y = filled(4);
  softmax({1, 4, x.data(), y.data()});
  CHECK((y == Floats{0, 1, 0, 0}));
  log_softmax({1, 4, x.data(), y.data()});
  CHECK(y[0] == -INFINITY && y[1] == 0 && y[2] == -1e38f);
  x[2] = NAN;
  softmax({1, 4, x.data(), y.data()});
  CHECK(std::isnan(y[0]) && std::isnan(y[1]));
}

TEST("gradients of softmax and log-softmax equal central differences") {
  for (const auto& shape : {std::pair<int64_t, int64_t>{3, 5}, {2, 37}, {4, 80}}) {
    const int64_t rows = shape.first, columns = shape.second;
    const Floats x = normals(rows * columns), dy = normals(rows * columns);
    Floats y = filled(rows * columns), dx = y;
    softmax({rows, columns, x.data(), y.data()});
    on_any_threads([&] { softmax_grad({rows, columns, y.data(), dy.data(), dx.data()}); }, {&dx});
    CHECK_CLOSE(dx, differences(widen(x), [&](const Doubles& v) { return dot(softmax_reference(v, columns), dy); }), 1e-5);
    log_softmax({rows, columns, x.data(), y.data()});
    on_any_threads([&] { log_softmax_grad({rows, columns, y.data(), dy.data(), dx.data()}); }, {&dx});
    CHECK_CLOSE(dx, differences(widen(x), [&](const Doubles& v) { return dot(log_softmax_reference(v, columns), dy); }), 1e-5);
  }
}

TEST("layer norm and RMS norm equal their definitions, with and without parameters") {
  for (const auto& shape : kShapes) {
    const int64_t rows = shape[0], columns = shape[1];
    Floats x = normals(rows * columns), scale = normals(columns), bias = normals(columns);
    for (float& v : x) v += 3;
    for (const bool with : {true, false}) {
      Floats y = filled(rows * columns), mean = filled(rows), rstd = filled(rows);
      on_any_threads(
          [&] {
            layer_norm({rows, columns, x.data(), with ? scale.data() : nullptr, with ? bias.data() : nullptr, 1e-5f, y.data(), mean.data(), rstd.data()});
          },
          {&y, &mean, &rstd});
      CHECK_CLOSE(y, norm_reference(widen(x), with ? widen(scale) : Doubles{}, with ? widen(bias) : Doubles{}, columns, 1e-5, true), 1e-5);
      on_any_threads([&] { rms_norm({rows, columns, x.data(), with ? scale.data() : nullptr, 1e-5f, y.data(), rstd.data()}); }, {&y, &rstd});
      CHECK_CLOSE(y, norm_reference(widen(x), with ? widen(scale) : Doubles{}, {}, columns, 1e-5, false), 1e-5);
    }
  }
}

TEST("gradients of the norms equal central differences") {
  for (const auto& shape : {std::pair<int64_t, int64_t>{3, 5}, {4, 37}, {9, 16}}) {
    const int64_t rows = shape.first, columns = shape.second;
    const Floats x = normals(rows * columns), dy = normals(rows * columns), scale = normals(columns), bias = normals(columns);
    const Doubles wide = widen(x), s = widen(scale), b = widen(bias);
    Floats y = filled(rows * columns), mean = filled(rows), rstd = filled(rows), dx = y, dscale = filled(columns), dbias = filled(columns);
    layer_norm({rows, columns, x.data(), scale.data(), bias.data(), 1e-5f, y.data(), mean.data(), rstd.data()});
    on_any_threads(
        [&] {
          layer_norm_grad({rows, columns, dy.data(), x.data(), scale.data(), mean.data(), rstd.data(), dx.data(), dscale.data(), dbias.data()});
        },
        {&dx, &dscale, &dbias});
    CHECK_CLOSE(dx, differences(wide, [&](const Doubles& v) { return dot(norm_reference(v, s, b, columns, 1e-5, true), dy); }), 1e-5);
    CHECK_CLOSE(dscale, differences(s, [&](const Doubles& v) { return dot(norm_reference(wide, v, b, columns, 1e-5, true), dy); }), 1e-5);
    CHECK_CLOSE(dbias, differences(b, [&](const Doubles& v) { return dot(norm_reference(wide, s, v, columns, 1e-5, true), dy); }), 1e-5);
    rms_norm({rows, columns, x.data(), scale.data(), 1e-5f, y.data(), rstd.data()});
    on_any_threads([&] { rms_norm_grad({rows, columns, dy.data(), x.data(), scale.data(), rstd.data(), dx.data(), dscale.data()}); }, {&dx, &dscale});
    CHECK_CLOSE(dx, differences(wide, [&](const Doubles& v) { return dot(norm_reference(v, s, {}, columns, 1e-5, false), dy); }), 1e-5);
    CHECK_CLOSE(dscale, differences(s, [&](const Doubles& v) { return dot(norm_reference(wide, v, {}, columns, 1e-5, false), dy); }), 1e-5);
  }
}

TEST("parameter gradients of the norms over many rows do not depend on threads") {
  const int64_t rows = 3001, columns = 129;
  const Floats x = normals(rows * columns), dy = normals(rows * columns), scale = normals(columns);
  Floats y = filled(rows * columns), mean = filled(rows), rstd = filled(rows), dx = y, dscale = filled(columns), dbias = filled(columns);
  layer_norm({rows, columns, x.data(), scale.data(), nullptr, 1e-5f, y.data(), mean.data(), rstd.data()});
  on_any_threads(
      [&] {
        layer_norm_grad({rows, columns, dy.data(), x.data(), scale.data(), mean.data(), rstd.data(), dx.data(), dscale.data(), dbias.data()});
      },
      {&dx, &dscale, &dbias});
  Doubles want_scale(columns), want_bias(columns);
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t c = 0; c < columns; c++) {
      const size_t i = static_cast<size_t>(r * columns + c);
      want_bias[static_cast<size_t>(c)] += dy[i];
      want_scale[static_cast<size_t>(c)] += double{dy[i]} * (double{x[i]} - mean[static_cast<size_t>(r)]) * rstd[static_cast<size_t>(r)];
    }
  }
  CHECK_CLOSE(dscale, want_scale, 2e-6);
  CHECK_CLOSE(dbias, want_bias, 2e-6);
}

TEST("cross-entropy from logits and its gradient; negative targets count for nothing") {
  for (const auto& shape : {std::pair<int64_t, int64_t>{5, 7}, {33, 65}, {3, 1030}}) {
    const int64_t rows = shape.first, classes = shape.second;
    const Floats logits = normals(rows * classes), dloss = normals(rows);
    std::vector<int32_t> targets(static_cast<size_t>(rows));
    for (int32_t& t : targets) t = static_cast<int32_t>(pick(classes + 1) - 1);
    targets[0] = -100;
    Floats loss = filled(rows), lse = filled(rows), dlogits = filled(rows * classes), want = filled(rows);
    on_any_threads(
        [&] {
          cross_entropy({rows, classes, logits.data(), targets.data(), loss.data(), lse.data()});
          cross_entropy_grad({rows, classes, logits.data(), targets.data(), lse.data(), dloss.data(), dlogits.data()});
        },
        {&loss, &lse, &dlogits});
    const Doubles wide = widen(logits);
    cross_entropy_reference(wide, classes, targets, dloss, &want);
    CHECK_CLOSE(loss, widen(want), 1e-6);
    if (rows * classes < 3000) {
      CHECK_CLOSE(dlogits, differences(wide, [&](const Doubles& v) { return cross_entropy_reference(v, classes, targets, dloss); }), 1e-5);
    }
    CHECK(loss[0] == 0 && lse[0] == 0 && std::all_of(dlogits.begin(), dlogits.begin() + classes, [](float g) { return g == 0; }));
  }
}

TEST("cross-entropy from hidden states equals that from logits, forward, backward and both at once") {
  for (const bool ignores : {false, true}) {
    const int64_t rows = 300, channels = 19, classes = 37;
    const Floats h = normals(rows * channels), w = normals(classes * channels), dloss = normals(rows);
    std::vector<int32_t> targets(static_cast<size_t>(rows));
    for (int32_t& t : targets) t = static_cast<int32_t>(ignores && pick(3) ? -1 : pick(classes));
    const Doubles wide_h = widen(h), wide_w = widen(w), logits = logits_reference(wide_h, wide_w, channels);
    Floats want = filled(rows);
    cross_entropy_reference(logits, classes, targets, dloss, &want);
    // dlogits = (softmax - onehot) dloss, then the two products.
    const Doubles p = softmax_reference(logits, classes);
    Doubles want_h(h.size()), want_w(w.size());
    for (int64_t r = 0; r < rows; r++) {
      if (targets[static_cast<size_t>(r)] < 0) continue;
      for (int64_t v = 0; v < classes; v++) {
        const double g = (p[r * classes + v] - (targets[static_cast<size_t>(r)] == v)) * dloss[r];
        for (int64_t c = 0; c < channels; c++) {
          want_h[r * channels + c] += g * wide_w[v * channels + c];
          want_w[v * channels + c] += g * wide_h[r * channels + c];
        }
      }
    }
    Floats loss = filled(rows), lse = filled(rows), dh = filled(rows * channels), dw = filled(classes * channels);
    Floats logits_there(static_cast<size_t>(logit_bytes(rows, classes, false)) / 4);
    on_any_threads([&] { linear_cross_entropy({rows, channels, classes, h.data(), w.data(), targets.data(), false, loss.data(), lse.data(), logits_there.data()}); },
                   {&loss, &lse});
    CHECK_CLOSE(loss, widen(want), 1e-6);
    LinearCrossEntropyGradArgs g{rows, channels, classes, h.data(), w.data(), targets.data(), lse.data(), dloss.data(), false, dh.data(), dw.data()};
    g.logits = logits_there.data();
    on_any_threads([&] { linear_cross_entropy_grad(g); }, {&dh, &dw});
    CHECK_CLOSE(dh, want_h, 2e-6);
    CHECK_CLOSE(dw, want_w, 2e-6);
    const Floats lse_before = lse;
    g.lse = nullptr, g.loss = loss.data(), g.lse_out = lse.data();
    on_any_threads([&] { linear_cross_entropy_grad(g); }, {&loss, &lse, &dh, &dw});
    CHECK(lse == lse_before);
    CHECK_CLOSE(loss, widen(want), 1e-6);
    CHECK_CLOSE(dh, want_h, 2e-6);
    CHECK_CLOSE(dw, want_w, 2e-6);
    // bf16 products: three digits.
    g.bf16_compute = true;
    on_any_threads([&] { linear_cross_entropy_grad(g); }, {&loss, &lse, &dh, &dw});
    CHECK_CLOSE(loss, widen(want), 2e-2);
    CHECK_CLOSE(dh, want_h, 3e-2);
    CHECK_CLOSE(dw, want_w, 3e-2);
  }
}

TEST("many chunks of rows add up, and rows without a target leave nothing behind") {
  const int64_t rows = 700, channels = 8, classes = 9000; // several chunks of 256 rows
  const Floats h = normals(rows * channels), w = normals(classes * channels), dloss(static_cast<size_t>(rows), 1.0f / rows);
  std::vector<int32_t> targets(static_cast<size_t>(rows));
  for (int32_t& t : targets) t = static_cast<int32_t>(pick(classes));
  const Doubles logits = logits_reference(widen(h), widen(w), channels);
  Floats want = filled(rows);
  cross_entropy_reference(logits, classes, targets, dloss, &want);
  Floats loss = filled(rows), lse = filled(rows), dh = filled(rows * channels), dw = filled(classes * channels);
  LinearCrossEntropyGradArgs g{rows, channels, classes, h.data(), w.data(), targets.data(), nullptr, dloss.data(), false, dh.data(), dw.data(), loss.data(), lse.data()};
  Floats logits_there(static_cast<size_t>(std::max(logit_bytes(rows, classes, false), logit_bytes(rows, classes, true))) / 4);
  g.logits = logits_there.data();
  on_any_threads([&] { linear_cross_entropy_grad(g); }, {&loss, &lse, &dh, &dw});
  CHECK_CLOSE(loss, widen(want), 1e-6);
  // dw sums to (number of rows' h) * 0: softmax minus onehot sums to zero over classes for each row.
  Doubles column(channels);
  double size = 0;
  for (int64_t v = 0; v < classes; v++)
    for (int64_t c = 0; c < channels; c++) column[c] += dw[v * channels + c], size += std::fabs(dw[v * channels + c]);
  for (double sum : column) CHECK(std::fabs(sum) < 1e-5 * size);
  // bf16 products walk over blocks of classes; the scale of a row changes where later logits are far larger.
  for (const float growth : {1.0f, 40.0f}) {
    Floats steep = w;
    for (int64_t i = classes / 2 * channels; i < classes * channels; i++) steep[static_cast<size_t>(i)] *= growth;
    g.w = steep.data();
    g.bf16_compute = false;
    linear_cross_entropy_grad(g);
    const Doubles exact = widen(loss), exact_dh = widen(dh), exact_dw = widen(dw);
    g.bf16_compute = true;
    on_any_threads([&] { linear_cross_entropy_grad(g); }, {&loss, &lse, &dh, &dw});
    CHECK_CLOSE(loss, exact, 2e-2);
    if (growth == 1) {
      CHECK_CLOSE(dh, exact_dh, 3e-2);
      CHECK_CLOSE(dw, exact_dw, 3e-2);
    }
  }
  std::fill(targets.begin(), targets.end(), -1);
  linear_cross_entropy_grad(g);
  for (const Floats* zero : {&loss, &dh, &dw}) CHECK(std::all_of(zero->begin(), zero->end(), [](float x) { return x == 0; }));
}

TEST("embedding takes rows, its gradient adds them up") {
  for (const auto& shape : {std::array<int64_t, 3>{50, 3, 7}, {4000, 48, 65}, {300, 130, 5000}}) {
    const int64_t rows = shape[0], channels = shape[1], classes = shape[2];
    const Floats table = normals(classes * channels), dy = normals(rows * channels);
    std::vector<int32_t> ids(static_cast<size_t>(rows));
    for (int32_t& id : ids) id = static_cast<int32_t>(pick(std::min<int64_t>(classes, 60)));
    Floats y = filled(rows * channels), dtable = filled(classes * channels);
    on_any_threads(
        [&] {
          embedding({rows, channels, classes, table.data(), ids.data(), y.data()});
          embedding_grad({rows, channels, classes, dy.data(), ids.data(), dtable.data()});
        },
        {&y, &dtable});
    Doubles want(table.size());
    bool same = true;
    for (int64_t r = 0; r < rows; r++) {
      for (int64_t c = 0; c < channels; c++) {
        same = same && y[r * channels + c] == table[ids[r] * channels + c];
        want[ids[r] * channels + c] += dy[r * channels + c];
      }
    }
    CHECK(same);
    CHECK_CLOSE(dtable, want, 2e-6);
    // Added onto a table in place, f32 and bf16: each row as if its sum were added at once.
    const Floats base = normals(classes * channels);
    Floats onto = base;
    std::vector<uint16_t> half(base.size());
    const auto to_half = [](float x) {
      uint32_t bits;
      std::memcpy(&bits, &x, 4);
      return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    };
    const auto from_half = [](uint16_t x) {
      const uint32_t bits = uint32_t{x} << 16;
      float y;
      std::memcpy(&y, &bits, 4);
      return y;
    };
    for (size_t i = 0; i < base.size(); i++) half[i] = to_half(base[i]);
    const std::vector<uint16_t> half_base = half;
    embedding_grad({rows, channels, classes, dy.data(), ids.data(), onto.data(), onto.data()});
    embedding_grad({rows, channels, classes, dy.data(), ids.data(), half.data(), half.data(), DType::bf16});
    bool exact = true, half_exact = true;
    for (size_t i = 0; i < base.size(); i++) {
      exact = exact && onto[i] == base[i] + dtable[i];
      half_exact = half_exact && half[i] == to_half(from_half(half_base[i]) + dtable[i]);
    }
    CHECK(exact);
    CHECK(half_exact);
  }
}

TEST("rotary turns pairs by their angle, and inverse turns them back") {
  for (const bool interleaved : {false, true}) {
    const int64_t batch = 2, time = 5, heads = 3, width = 50, rotated = 38, half = rotated / 2;
    const Floats x = normals(batch * time * heads * width);
    Floats cosine(static_cast<size_t>(time * half)), sine(cosine.size());
    for (size_t i = 0; i < cosine.size(); i++) {
      const float angle = uniform(-3, 3);
      cosine[i] = std::cos(angle);
      sine[i] = std::sin(angle);
    }
    Floats y = filled(static_cast<int64_t>(x.size())), back = y;
    RotaryArgs a{};
    a.batch = batch, a.time = time, a.heads = heads, a.width = width, a.rotated = rotated;
    a.x = x.data(), a.x_batch = a.y_batch = time * heads * width, a.x_time = a.y_time = heads * width, a.x_head = a.y_head = width;
    a.cosine = cosine.data(), a.sine = sine.data(), a.interleaved = interleaved, a.y = y.data();
    on_any_threads([&] { rotary(a); }, {&y});
    Doubles want(x.begin(), x.end());
    for (int64_t row = 0; row < batch * time * heads; row++) {
      const int64_t t = row / heads % time;
      for (int64_t i = 0; i < half; i++) {
        const size_t u = static_cast<size_t>(row * width + (interleaved ? 2 * i : i)), v = static_cast<size_t>(row * width + (interleaved ? 2 * i + 1 : i + half));
        const double c = cosine[t * half + i], s = sine[t * half + i];
        want[u] = x[u] * c - x[v] * s;
        want[v] = x[v] * c + x[u] * s;
      }
    }
    CHECK_CLOSE(y, want, 1e-6);
    a.x = y.data(), a.y = back.data(), a.inverse = true;
    rotary(a);
    CHECK_CLOSE(back, widen(x), 1e-6);
    a.y = y.data(); // in place
    rotary(a);
    CHECK(y == back);
  }
}

TEST("AdamW takes its decoupled step on every tensor, and the norm is that of all") {
  const std::vector<int64_t> sizes = {1, 17, 40001, 128};
  const double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0.1, rate = 3e-3, clip = 0.7;
  std::vector<Floats> p, m, v, g, want_p, want_m, want_v;
  std::vector<AdamWTensor> tensors;
  for (size_t t = 0; t < sizes.size(); t++) {
    p.push_back(normals(sizes[t])), m.push_back(normals(sizes[t])), v.push_back(normals(sizes[t])), g.push_back(normals(sizes[t]));
    for (float& x : v.back()) x *= x;
  }
  const std::vector<Floats> p0 = p, m0 = m, v0 = v;
  const double c1 = 1 - std::pow(beta1, 5), c2 = 1 - std::pow(beta2, 5);
  std::vector<Floats*> results;
  for (size_t t = 0; t < sizes.size(); t++) {
    tensors.push_back({p[t].data(), m[t].data(), v[t].data(), g[t].data(), sizes[t], t != 1});
    for (Floats* r : {&p[t], &m[t], &v[t]}) results.push_back(r);
  }
  on_any_threads(
      [&] {
        for (size_t t = 0; t < sizes.size(); t++) {
          std::copy(p0[t].begin(), p0[t].end(), p[t].begin());
          std::copy(m0[t].begin(), m0[t].end(), m[t].begin());
          std::copy(v0[t].begin(), v0[t].end(), v[t].begin());
        }
        adamw({tensors.data(), static_cast<int64_t>(tensors.size()), static_cast<float>(rate), static_cast<float>(clip), static_cast<float>(c1),
               static_cast<float>(c2), beta1, beta2, epsilon, weight_decay});
      },
      results);
  double square = 0;
  for (size_t t = 0; t < sizes.size(); t++) {
    Doubles wp(p[t].size()), wm(p[t].size()), wv(p[t].size());
    for (size_t i = 0; i < wp.size(); i++) {
      const double gradient = g[t][i] * clip;
      square += double{g[t][i]} * g[t][i];
      wm[i] = beta1 * m0[t][i] + (1 - beta1) * gradient;
      wv[i] = beta2 * v0[t][i] + (1 - beta2) * gradient * gradient;
      wp[i] = p0[t][i] - rate * (wm[i] / c1 / (std::sqrt(wv[i] / c2) + epsilon) + (t != 1 ? weight_decay * p0[t][i] : 0));
    }
    CHECK_CLOSE(p[t], wp, 1e-6);
    CHECK_CLOSE(m[t], wm, 1e-6);
    CHECK_CLOSE(v[t], wv, 1e-6);
  }
  std::vector<const void*> gradients;
  for (const Floats& x : g) gradients.push_back(x.data());
  Floats norm = {0};
  on_any_threads([&] { global_norm({gradients.data(), sizes.data(), static_cast<int64_t>(sizes.size()), norm.data()}); }, {&norm});
  CHECK_CLOSE(norm, Doubles{std::sqrt(square)}, 1e-7);
  // Squares beyond the range of f32 still add up.
  for (Floats& x : g)
    for (float& y : x) y = 1e25f;
  global_norm({gradients.data(), sizes.data(), static_cast<int64_t>(sizes.size()), norm.data()});
  CHECK_CLOSE(norm, Doubles{1e25 * std::sqrt(1.0 + 17 + 40001 + 128)}, 1e-6);
}

TEST("top-k gives the largest, equal ones by index, NaN last") {
  for (const auto& shape : {std::array<int64_t, 3>{3, 5, 5}, {4, 1000, 1}, {9, 333, 40}, {2, 200000, 50}, {1, 200001, 1}}) {
    const int64_t rows = shape[0], columns = shape[1], k = shape[2];
    Floats x = normals(rows * columns);
    for (float& v : x) v = std::round(v * 50) / 50; // many ties
    x[1] = NAN;
    x[2] = -0.0f;
    Floats values = filled(rows * k), indices_as_floats = filled(rows * k);
    std::vector<int32_t> indices(static_cast<size_t>(rows * k));
    on_any_threads(
        [&] {
          top_k({rows, columns, k, x.data(), values.data(), indices.data()});
          std::copy(indices.begin(), indices.end(), indices_as_floats.begin());
        },
        {&values, &indices_as_floats});
    for (int64_t r = 0; r < rows; r++) {
      std::vector<int32_t> order(static_cast<size_t>(columns));
      for (int64_t i = 0; i < columns; i++) order[static_cast<size_t>(i)] = static_cast<int32_t>(i);
      const float* row = x.data() + r * columns;
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        if (std::isnan(row[a]) || std::isnan(row[b])) return !std::isnan(row[a]) && std::isnan(row[b]);
        return row[a] > row[b];
      });
      bool same = true;
      for (int64_t i = 0; i < k; i++) {
        same = same && indices[r * k + i] == order[i];
        same = same && (values[r * k + i] == row[order[i]] || std::isnan(row[order[i]]));
      }
      CHECK(same);
    }
  }
}
