// The element-wise tile machine against one element at a time in double.
#include "nn_test.hpp"

using namespace howdah;
using namespace howdah::test;

namespace {

/** y = op(x...) over n elements of one type. */
void run_one(Ew op, DType in, DType out, const std::vector<const void*>& inputs, void* y, int64_t n) {
  EwRegion region;
  region.shape = {n};
  EwNode node{op, out};
  for (size_t i = 0; i < inputs.size(); i++) {
    region.inputs.push_back({in, {1}});
    node.operand[i] = static_cast<int32_t>(i);
  }
  region.nodes.push_back(node);
  region.outputs.push_back({static_cast<int32_t>(inputs.size())});
  const auto plan = plan_elementwise(region);
  run_elementwise({plan.get(), inputs.data(), &y});
}

double phi(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double gelu_tanh_reference(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }

/** Units in the last place between an f32 and the true value; denormal results may be flushed to zero. */
double ulps(float got, double want) {
  if (std::isnan(want)) return std::isnan(got) ? 0 : INFINITY;
  const float nearest = static_cast<float>(want);
  if (std::isinf(nearest)) return got == nearest || std::fabs(got) >= 3.4028234e38f ? 0 : INFINITY;
  const double size = std::max(std::fabs(want), 1.1754943508222875e-38);
  const double unit = std::ldexp(1.0, std::max(-149, std::ilogb(size) - 23));
  if (std::fabs(want) < 1.1754943508222875e-38) return std::fabs(got) <= 1.1754944e-38f ? 0 : INFINITY;
  return std::fabs(static_cast<double>(got) - want) / unit;
}

struct Function {
  const char* name;
  Ew op;
  double (*exact)(double);
  float low, high;
  double bound; // ulp
};

const Function kFunctions[] = {
    {"exponential", Ew::exponential, [](double x) { return std::exp(x); }, -110, 95, 1.5},
    {"exponential_minus_one", Ew::exponential_minus_one, [](double x) { return std::expm1(x); }, -20, 95, 2},
    {"exponential_minus_one near 0", Ew::exponential_minus_one, [](double x) { return std::expm1(x); }, -1, 1, 2},
    {"log", Ew::log, [](double x) { return std::log(x); }, 0, 100, 1.5},
    {"log near 1", Ew::log, [](double x) { return std::log(x); }, 0.5, 2, 1.5},
    {"log_plus_one", Ew::log_plus_one, [](double x) { return std::log1p(x); }, -1, 100, 2},
    {"log_plus_one near 0", Ew::log_plus_one, [](double x) { return std::log1p(x); }, -0.01f, 0.01f, 2},
    {"tanh", Ew::tanh, [](double x) { return std::tanh(x); }, -12, 12, 3},
    {"tanh near 0", Ew::tanh, [](double x) { return std::tanh(x); }, -0.1f, 0.1f, 3},
    {"logistic", Ew::logistic, [](double x) { return 1 / (1 + std::exp(-x)); }, -87, 20, 3},
    {"erf", Ew::erf, [](double x) { return std::erf(x); }, -5, 5, 3},
    {"sine", Ew::sine, [](double x) { return std::sin(x); }, -1000, 1000, 2},
    {"sine of large", Ew::sine, [](double x) { return std::sin(x); }, 1e5f, 1e9f, 2},
    {"cosine", Ew::cosine, [](double x) { return std::cos(x); }, -1000, 1000, 2},
    {"sqrt", Ew::sqrt, [](double x) { return std::sqrt(x); }, 0, 1e6f, 0.5001},
    {"rsqrt", Ew::rsqrt, [](double x) { return 1 / std::sqrt(x); }, 1e-3f, 1e6f, 1.5},
};

} // namespace

TEST("elementary functions stay within a few units in the last place") {
  const int64_t n = 200003;
  Floats x(static_cast<size_t>(n)), y(x.size());
  for (const Function& f : kFunctions) {
    for (float& v : x) v = uniform(f.low, f.high);
    run_one(f.op, DType::f32, DType::f32, {x.data()}, y.data(), n);
    double worst = 0;
    size_t at = 0;
    for (size_t i = 0; i < x.size(); i++) {
      const double error = ulps(y[i], f.exact(x[i]));
      if (!(error <= worst)) worst = error, at = i;
    }
    if (std::getenv("HOWDAH_TEST_VERBOSE")) std::printf("    %-30s %.3f ulp\n", f.name, worst);
    CHECK_MESSAGE(worst <= f.bound, std::string(f.name) + "(" + std::to_string(x[at]) + ") is off by " + std::to_string(worst) + " ulp");
  }
}

TEST("elementary functions give IEEE results at infinity, NaN and zero") {
  const float inf = INFINITY;
  const Floats x = {inf, -inf, NAN, 0.0f, -0.0f, 1000, -1000};
  Floats y(x.size());
  const auto expect = [&](Ew op, const Doubles& want) {
    run_one(op, DType::f32, DType::f32, {x.data()}, y.data(), static_cast<int64_t>(x.size()));
    for (size_t i = 0; i < x.size(); i++) {
      const bool same = std::isnan(want[i]) ? std::isnan(y[i]) : ulps(y[i], want[i]) < 3 && std::signbit(y[i]) == std::signbit(want[i]);
      CHECK_MESSAGE(same, "op " + std::to_string(int(op)) + " of " + std::to_string(x[i]) + " is " + std::to_string(y[i]));
    }
  };
  expect(Ew::exponential, {inf, 0, NAN, 1, 1, inf, 0});
  expect(Ew::exponential_minus_one, {inf, -1, NAN, 0, -0.0, inf, -1});
  expect(Ew::log, {inf, NAN, NAN, -inf, -inf, std::log(1000.0), NAN});
  expect(Ew::log_plus_one, {inf, NAN, NAN, 0, -0.0, std::log1p(1000.0), NAN});
  expect(Ew::tanh, {1, -1, NAN, 0, -0.0, 1, -1});
  expect(Ew::logistic, {1, 0, NAN, 0.5, 0.5, 1, 0});
  expect(Ew::erf, {1, -1, NAN, 0, -0.0, 1, -1});
  expect(Ew::sine, {NAN, NAN, NAN, 0, -0.0, std::sin(1000.0), std::sin(-1000.0)});
  expect(Ew::cosine, {NAN, NAN, NAN, 1, 1, std::cos(1000.0), std::cos(-1000.0)});
  expect(Ew::sign, {1, -1, NAN, 0, -0.0, 1, -1});
  expect(Ew::abs, {inf, inf, NAN, 0, 0, 1000, 1000});
}

TEST("activations and their gradients follow their definitions") {
  const int64_t n = 40001;
  Floats x(static_cast<size_t>(n)), dy = normals(n), y(x.size());
  for (float& v : x) v = uniform(-12, 12);
  const auto forward = [&](Ew op, double (*f)(double)) {
    run_one(op, DType::f32, DType::f32, {x.data()}, y.data(), n);
    double worst = 0;
    for (size_t i = 0; i < x.size(); i++) worst = std::max(worst, std::fabs(y[i] - f(x[i])) / std::max(1.0, std::fabs(double(x[i]))));
    CHECK_MESSAGE(worst < 2e-7, "op " + std::to_string(int(op)) + " off by " + std::to_string(worst * 1e7) + "e-7");
  };
  const auto backward = [&](Ew op, double (*f)(double)) {
    run_one(op, DType::f32, DType::f32, {dy.data(), x.data()}, y.data(), n);
    double worst = 0;
    for (size_t i = 0; i < x.size(); i++) {
      const double h = 1e-4, slope = (f(x[i] + h) - f(x[i] - h)) / (2 * h);
      worst = std::max(worst, std::fabs(y[i] - dy[i] * slope) / std::max(1.0, std::fabs(double(dy[i]))));
    }
    CHECK_MESSAGE(worst < 2e-6, "op " + std::to_string(int(op)) + " off by " + std::to_string(worst * 1e6) + "e-6");
  };
  const auto gelu = [](double v) { return v * phi(v); };
  const auto silu = [](double v) { return v / (1 + std::exp(-v)); };
  forward(Ew::gelu, gelu);
  double tail = 0; // relative, where 0.5 + 0.5 erf would have lost its digits
  for (size_t i = 0; i < x.size(); i++)
    if (x[i] < 0 && x[i] > -4) tail = std::max(tail, std::fabs(y[i] / gelu(x[i]) - 1));
  CHECK_MESSAGE(tail < 2e-5, "the tail of gelu is off by " + std::to_string(tail * 1e5) + "e-5");
  forward(Ew::gelu_tanh, gelu_tanh_reference);
  forward(Ew::silu, silu);
  backward(Ew::gelu_grad, gelu);
  backward(Ew::gelu_tanh_grad, gelu_tanh_reference);
  backward(Ew::silu_grad, silu);
  // Far out, nothing overflows into NaN.
  Floats far = {-1e4f, 1e4f, -3e38f, 3e38f, -50, 50}, ones(6, 1.0f), out(6);
  for (Ew op : {Ew::gelu, Ew::gelu_tanh, Ew::silu}) {
    run_one(op, DType::f32, DType::f32, {far.data()}, out.data(), 6);
    for (size_t i = 0; i < 6; i++) CHECK(far[i] > 0 ? out[i] == far[i] : std::fabs(out[i]) < 1e-15);
  }
  for (Ew op : {Ew::gelu_grad, Ew::silu_grad}) {
    run_one(op, DType::f32, DType::f32, {ones.data(), far.data()}, out.data(), 6);
    for (size_t i = 0; i < 6; i++) CHECK(std::fabs(out[i] - (far[i] > 0 ? 1 : 0)) < 1e-15);
  }
}

namespace {

float bf16_round(float x) {
  uint32_t b;
  std::memcpy(&b, &x, 4);
  if ((b & 0x7fffffff) > 0x7f800000) return NAN;
  b = (b + 0x7fff + (b >> 16 & 1)) & 0xffff0000u;
  std::memcpy(&x, &b, 4);
  return x;
}
float f16_round(float x) {
  if (!std::isfinite(x) || x == 0) return x;
  if (std::fabs(x) >= 65520) return std::copysign(INFINITY, x);
  const int exponent = std::max(std::ilogb(x), -14);
  const double unit = std::ldexp(1.0, exponent - 10);
  return static_cast<float>(std::nearbyint(x / unit) * unit);
}

/** One element of a type read from or written to memory, as a double. */
double read_element(const void* data, DType type, int64_t i) {
  switch (type) {
    case DType::f32: return static_cast<const float*>(data)[i];
    case DType::i32: return static_cast<const int32_t*>(data)[i];
    case DType::i8: return static_cast<const int8_t*>(data)[i];
    case DType::u8:
    case DType::boolean: return static_cast<const uint8_t*>(data)[i];
    case DType::bf16: {
      const uint32_t b = uint32_t{static_cast<const uint16_t*>(data)[i]} << 16;
      float f;
      std::memcpy(&f, &b, 4);
      return f;
    }
    case DType::f16: {
      const uint16_t h = static_cast<const uint16_t*>(data)[i];
      const int exponent = h >> 10 & 31, fraction = h & 1023;
      const double size = exponent == 31 ? (fraction ? NAN : INFINITY) : exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
      return h & 0x8000 ? -size : size;
    }
  }
  return NAN;
}

/** What storing in a type does to a value. */
double as_type(double x, DType type) {
  switch (type) {
    case DType::f32: return static_cast<float>(x);
    case DType::bf16: return bf16_round(static_cast<float>(x));
    case DType::f16: return f16_round(static_cast<float>(x));
    case DType::i32: return static_cast<double>(static_cast<int32_t>(static_cast<uint32_t>(static_cast<int64_t>(x))));
    case DType::u8: return static_cast<double>(static_cast<uint8_t>(static_cast<int64_t>(x)));
    case DType::i8: return static_cast<double>(static_cast<int8_t>(static_cast<uint8_t>(static_cast<int64_t>(x))));
    case DType::boolean: return x != 0;
  }
  return NAN;
}

double converted(double x, DType from, DType to) {
  if (to == DType::boolean) return x != 0;
  if (!is_float(from) || is_float(to)) return as_type(x, to);
  if (std::isnan(x)) return 0;
  const double low = to == DType::i32 ? INT32_MIN : to == DType::i8 ? -128 : 0, high = to == DType::i32 ? INT32_MAX : to == DType::i8 ? 127 : 255;
  return std::trunc(std::clamp(x, low, high));
}

double evaluate(const EwNode& n, DType in, const double* a, const std::vector<int64_t>& index) {
  const int64_t x = is_float(in) ? 0 : static_cast<int64_t>(a[0]), y = is_float(in) ? 0 : static_cast<int64_t>(a[1]);
  double r = NAN;
  switch (n.op) {
    case Ew::negate: r = -a[0]; break;
    case Ew::abs: r = std::fabs(a[0]); break;
    case Ew::tanh: r = std::tanh(a[0]); break;
    case Ew::floor: r = std::floor(a[0]); break;
    case Ew::ceil: r = std::ceil(a[0]); break;
    case Ew::round_nearest_even: r = std::nearbyint(a[0]); break;
    case Ew::logical_not: r = in == DType::boolean ? !x : static_cast<double>(~x); break;
    case Ew::convert: return converted(a[0], in, n.type);
    case Ew::add: r = in == DType::boolean ? (x | y) : a[0] + a[1]; break;
    case Ew::subtract: r = a[0] - a[1]; break;
    case Ew::multiply: r = is_float(in) ? a[0] * a[1] : static_cast<double>(static_cast<int32_t>(static_cast<uint32_t>(x) * static_cast<uint32_t>(y))); break;
    case Ew::divide: r = is_float(in) ? a[0] / a[1] : y == 0 ? -1 : static_cast<double>(x / y); break;
    case Ew::remainder: r = is_float(in) ? std::fmod(a[0], a[1]) : y == 0 ? static_cast<double>(x) : static_cast<double>(x % y); break;
    case Ew::power: r = std::pow(a[0], a[1]); break;
    case Ew::maximum: r = std::max(a[0], a[1]); break;
    case Ew::minimum: r = std::min(a[0], a[1]); break;
    case Ew::bit_and: r = static_cast<double>(x & y); break;
    case Ew::bit_or: r = static_cast<double>(x | y); break;
    case Ew::bit_xor: r = static_cast<double>(x ^ y); break;
    case Ew::compare_lt: return a[0] < a[1];
    case Ew::compare_ge: return a[0] >= a[1];
    case Ew::compare_eq: return a[0] == a[1];
    case Ew::select: return a[0] != 0 ? a[1] : a[2];
    case Ew::clamp: r = std::min(std::max(a[1], a[0]), a[2]); break;
    case Ew::constant: r = n.number; break;
    case Ew::iota: r = static_cast<double>(index[static_cast<size_t>(n.axis)]); break;
    default: break;
  }
  return as_type(r, n.type);
}

struct RandomRegion {
  EwRegion region;
  std::vector<std::vector<uint8_t>> storage;
};

DType random_type() { return static_cast<DType>(pick(7)); }

uint16_t half_bits(float x) {
  const double size = std::fabs(x);
  int exponent = size == 0 ? -15 : std::max(std::ilogb(size), -14);
  double fraction = size / std::ldexp(1.0, exponent);
  if (fraction < 1) exponent = -15;
  const int bits = exponent == -15 ? static_cast<int>(size * 16777216.0) : static_cast<int>((exponent + 15) * 1024 + (fraction - 1) * 1024);
  return static_cast<uint16_t>(bits | (x < 0 ? 0x8000 : 0));
}

void fill_random(std::vector<uint8_t>& bytes, DType type, int64_t n) {
  bytes.resize(static_cast<size_t>(n * bytes_of(type)));
  for (int64_t i = 0; i < n; i++) {
    const float f = static_cast<float>(pick(65) - 32) / 8; // exact in every float type, so that rounding cannot differ
    uint8_t* at = bytes.data() + i * bytes_of(type);
    if (type == DType::f32) std::memcpy(at, &f, 4);
    else if (type == DType::bf16) {
      uint32_t b;
      std::memcpy(&b, &f, 4);
      const uint16_t h = static_cast<uint16_t>(b >> 16);
      std::memcpy(at, &h, 2);
    } else if (type == DType::f16) {
      const uint16_t h = half_bits(f);
      std::memcpy(at, &h, 2);
    } else if (type == DType::i32) {
      const int32_t v = static_cast<int32_t>(pick(2001) - 1000);
      std::memcpy(at, &v, 4);
    } else {
      *at = static_cast<uint8_t>(type == DType::boolean ? pick(2) : pick(256));
    }
  }
}

RandomRegion random_region() {
  RandomRegion r;
  EwRegion& region = r.region;
  const int64_t rank = 1 + pick(4);
  for (int64_t d = 0; d < rank; d++) {
    static const int64_t sizes[] = {1, 2, 3, 5, 7, 16, 33, 130, 200, 600};
    int64_t size = sizes[pick(10)];
    int64_t so_far = 1;
    for (int64_t s : region.shape) so_far *= s;
    if (so_far * size > 60000) size = 3;
    region.shape.push_back(size);
  }
  const int64_t inputs = 1 + pick(4);
  std::vector<DType> types;
  for (int64_t i = 0; i < inputs; i++) {
    EwInput input{random_type(), std::vector<int64_t>(static_cast<size_t>(rank), 0)};
    // Contiguous over a random subset of the dimensions, sometimes in another order.
    std::vector<int64_t> order(static_cast<size_t>(rank));
    for (int64_t d = 0; d < rank; d++) order[static_cast<size_t>(d)] = rank - 1 - d;
    if (pick(4) == 0) std::shuffle(order.begin(), order.end(), engine);
    const bool whole = pick(2);
    int64_t step = 1;
    for (int64_t d : order) {
      if (!whole && pick(2)) continue;
      input.strides[static_cast<size_t>(d)] = step;
      step *= region.shape[static_cast<size_t>(d)];
    }
    region.inputs.push_back(input);
    types.push_back(input.type);
    r.storage.emplace_back();
    fill_random(r.storage.back(), input.type, step);
  }
  const auto value_of_type = [&](auto wanted) {
    std::vector<int32_t> fitting;
    for (size_t v = 0; v < types.size(); v++)
      if (wanted(types[v])) fitting.push_back(static_cast<int32_t>(v));
    return fitting.empty() ? -1 : fitting[static_cast<size_t>(pick(static_cast<int64_t>(fitting.size())))];
  };
  const int64_t nodes = 1 + pick(12);
  while (static_cast<int64_t>(region.nodes.size()) < nodes) {
    EwNode node{Ew::constant, random_type()};
    const int32_t a = static_cast<int32_t>(pick(static_cast<int64_t>(types.size())));
    const DType type = types[static_cast<size_t>(a)];
    const auto like_a = [&](DType t) { return t == type; };
    node.operand[0] = a;
    const bool floating = is_float(type);
    switch (pick(8)) {
      case 0:
        node.op = Ew::constant;
        node.operand[0] = -1;
        node.number = node.type == DType::boolean ? 1 : 3;
        break;
      case 1:
        node.op = Ew::iota;
        node.operand[0] = -1;
        node.axis = static_cast<int32_t>(pick(rank));
        if (node.type != DType::i32 && node.type != DType::f32) node.type = DType::i32;
        break;
      case 2: node.op = Ew::convert; break;
      case 3: {
        static const Ew ops[] = {Ew::negate, Ew::abs, Ew::tanh, Ew::floor, Ew::ceil, Ew::round_nearest_even};
        node.op = floating ? ops[pick(6)] : Ew::logical_not;
        node.type = type;
        break;
      }
      case 4: {
        static const Ew compares[] = {Ew::compare_lt, Ew::compare_ge, Ew::compare_eq};
        node.op = compares[pick(3)];
        node.operand[1] = value_of_type(like_a);
        node.type = DType::boolean;
        break;
      }
      case 5: {
        const int32_t p = value_of_type([](DType t) { return t == DType::boolean; });
        if (p < 0) continue;
        node.op = Ew::select;
        node.operand[0] = p;
        node.operand[1] = a;
        node.operand[2] = value_of_type(like_a);
        node.type = type;
        break;
      }
      default: {
        static const Ew reals[] = {Ew::add, Ew::subtract, Ew::multiply, Ew::maximum, Ew::minimum};
        static const Ew wholes[] = {Ew::add, Ew::subtract, Ew::multiply, Ew::divide, Ew::remainder, Ew::bit_and, Ew::bit_or, Ew::bit_xor, Ew::maximum};
        node.op = floating ? reals[pick(5)] : type == DType::boolean ? wholes[5 + pick(3)] : wholes[pick(9)];
        node.operand[1] = value_of_type(like_a);
        node.type = type;
      }
    }
    region.nodes.push_back(node);
    types.push_back(node.type);
  }
  const int64_t outputs = 1 + pick(3);
  for (int64_t o = 0; o < outputs; o++) {
    region.outputs.push_back({static_cast<int32_t>(types.size() - 1 - static_cast<size_t>(o ? pick(static_cast<int64_t>(types.size())) : 0))});
  }
  return r;
}

/** Values of all outputs, before reduction, as doubles; f32 arithmetic is imitated by rounding each node. */
std::vector<Doubles> evaluate_region(const RandomRegion& r) {
  const EwRegion& region = r.region;
  int64_t total = 1;
  for (int64_t s : region.shape) total *= s;
  std::vector<Doubles> results(region.outputs.size(), Doubles(static_cast<size_t>(total)));
  std::vector<int64_t> index(region.shape.size(), 0);
  std::vector<double> values(region.inputs.size() + region.nodes.size());
  std::vector<DType> types;
  for (const EwInput& in : region.inputs) types.push_back(in.type);
  for (const EwNode& node : region.nodes) types.push_back(node.type);
  for (int64_t e = 0; e < total; e++) {
    for (size_t i = 0; i < region.inputs.size(); i++) {
      int64_t offset = 0;
      for (size_t d = 0; d < index.size(); d++) offset += index[d] * region.inputs[i].strides[d];
      values[i] = read_element(r.storage[i].data(), region.inputs[i].type, offset);
    }
    for (size_t n = 0; n < region.nodes.size(); n++) {
      const EwNode& node = region.nodes[n];
      double a[3] = {0, 0, 0};
      for (int j = 0; j < 3; j++)
        if (node.operand[j] >= 0) a[j] = values[static_cast<size_t>(node.operand[j])];
      const DType in = node.operand[0] >= 0 ? types[static_cast<size_t>(node.operand[0])] : node.type;
      values[region.inputs.size() + n] = evaluate(node, in, a, index);
    }
    for (size_t o = 0; o < region.outputs.size(); o++) results[o][static_cast<size_t>(e)] = values[static_cast<size_t>(region.outputs[o].value)];
    for (size_t d = index.size(); d-- > 0;) {
      if (++index[d] < region.shape[d]) break;
      index[d] = 0;
    }
  }
  return results;
}

DType type_of_value(const EwRegion& region, int32_t value) {
  const size_t v = static_cast<size_t>(value);
  return v < region.inputs.size() ? region.inputs[v].type : region.nodes[v - region.inputs.size()].type;
}

std::vector<Doubles> run_region(const RandomRegion& r, int64_t size, const std::vector<int>& in_place = {}) {
  const auto plan = plan_elementwise(r.region);
  std::vector<std::vector<uint8_t>> inputs = r.storage, outputs;
  std::vector<const void*> in;
  std::vector<void*> out;
  for (auto& s : inputs) in.push_back(s.data());
  for (size_t o = 0; o < r.region.outputs.size(); o++) {
    const DType type = type_of_value(r.region, r.region.outputs[o].value);
    outputs.emplace_back(static_cast<size_t>(size * bytes_of(type)));
  }
  for (size_t o = 0; o < outputs.size(); o++) {
    out.push_back(o < in_place.size() && in_place[o] >= 0 ? inputs[static_cast<size_t>(in_place[o])].data() : outputs[o].data());
  }
  run_elementwise({plan.get(), in.data(), out.data()});
  std::vector<Doubles> results;
  for (size_t o = 0; o < outputs.size(); o++) {
    const DType type = type_of_value(r.region, r.region.outputs[o].value);
    Doubles values(static_cast<size_t>(size));
    for (int64_t i = 0; i < size; i++) values[static_cast<size_t>(i)] = read_element(out[o], type, i);
    results.push_back(values);
  }
  return results;
}

bool nearly(double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) == std::isnan(b);
  if (std::isinf(a) || std::isinf(b)) return a == b;
  return std::fabs(a - b) <= 1e-5 + 1e-5 * std::fabs(b);
}

} // namespace

TEST("random element-wise regions equal one element at a time") {
  for (int round = 0; round < 400; round++) {
    RandomRegion r = random_region();
    // A tanh of bf16 may round either way from values a hair apart.
    for (EwNode& node : r.region.nodes)
      if (node.op == Ew::tanh && node.type != DType::f32) node.op = Ew::negate;
    const std::vector<Doubles> want = evaluate_region(r);
    limit_threads(round % 2 ? 64 : 1);
    const std::vector<Doubles> got = run_region(r, static_cast<int64_t>(want[0].size()));
    bool same = true;
    for (size_t o = 0; o < want.size(); o++)
      for (size_t i = 0; i < want[o].size(); i++) same = same && nearly(got[o][i], want[o][i]);
    CHECK_MESSAGE(same, "region " + std::to_string(round));
  }
  limit_threads(64);
}

TEST("an output may take the place of an input of its type") {
  int tried = 0;
  for (int round = 0; round < 600 && tried < 60; round++) {
    RandomRegion r = random_region();
    const std::vector<Doubles> want = evaluate_region(r);
    int64_t total = static_cast<int64_t>(want[0].size()), step = 1;
    std::vector<int64_t> contiguous(r.region.shape.size());
    for (size_t d = contiguous.size(); d-- > 0;) {
      contiguous[d] = step;
      step *= r.region.shape[d];
    }
    std::vector<int> place(r.region.outputs.size(), -1);
    bool any = false;
    for (size_t i = 0; i < r.region.inputs.size(); i++) {
      bool used = false;
      for (size_t d = 0; d < contiguous.size(); d++) used |= r.region.shape[d] != 1 && r.region.inputs[i].strides[d] != contiguous[d];
      if (used) continue;
      for (size_t o = 0; o < place.size(); o++) {
        if (place[o] >= 0 || type_of_value(r.region, r.region.outputs[o].value) != r.region.inputs[i].type) continue;
        place[o] = static_cast<int>(i);
        any = true;
        break;
      }
    }
    bool tanh = false;
    for (const EwNode& node : r.region.nodes) tanh |= node.op == Ew::tanh;
    if (!any || tanh) continue;
    tried++;
    const std::vector<Doubles> got = run_region(r, total, place);
    bool same = true;
    for (size_t o = 0; o < want.size(); o++)
      for (size_t i = 0; i < want[o].size(); i++) same = same && nearly(got[o][i], want[o][i]);
    CHECK_MESSAGE(same, "region " + std::to_string(round));
  }
  CHECK(tried == 60);
}

TEST("a region may end in sums, maxima or minima over its first or last dimensions") {
  for (int round = 0; round < 300; round++) {
    RandomRegion r = random_region();
    for (EwNode& node : r.region.nodes)
      if (node.op == Ew::tanh) node.op = Ew::negate;
    EwRegion& region = r.region;
    region.reduce_dims = static_cast<int>(pick(static_cast<int64_t>(region.shape.size()) + 1));
    region.reduce_leading = pick(2);
    const std::vector<Doubles> values = evaluate_region(r);
    const int boundary = region.reduce_leading ? region.reduce_dims : static_cast<int>(region.shape.size()) - region.reduce_dims;
    int64_t before = 1, after = 1;
    for (int d = 0; d < static_cast<int>(region.shape.size()); d++) (d < boundary ? before : after) *= region.shape[static_cast<size_t>(d)];
    const int64_t kept = region.reduce_leading ? after : before, reduced = region.reduce_leading ? before : after;
    for (EwOutput& output : region.outputs) output.reduce = static_cast<EwReduce>(1 + pick(3));
    if (region.reduce_dims == 0 && region.reduce_leading) continue;
    limit_threads(1);
    const std::vector<Doubles> got = run_region(r, kept);
    limit_threads(64);
    const std::vector<Doubles> again = run_region(r, kept);
    for (size_t o = 0; o < values.size(); o++) {
      const DType type = type_of_value(region, region.outputs[o].value);
      bool same = true;
      for (int64_t k = 0; k < kept; k++) {
        double sum = 0, most = -INFINITY, least = INFINITY, size = 0;
        bool nan = false;
        for (int64_t i = 0; i < reduced; i++) {
          const double v = values[o][static_cast<size_t>(region.reduce_leading ? i * kept + k : k * reduced + i)];
          nan |= std::isnan(v);
          sum += v;
          size += std::fabs(v);
          most = std::max(most, v);
          least = std::min(least, v);
        }
        const EwReduce kind = region.outputs[o].reduce;
        const double exact = nan ? NAN : kind == EwReduce::add ? sum : kind == EwReduce::maximum ? most : least;
        const double want = type == DType::boolean ? exact != 0 : as_type(exact, type);
        const double x = got[o][static_cast<size_t>(k)];
        const double slack = kind == EwReduce::add && is_float(type) ? size * (type == DType::f32 ? 1e-6 : type == DType::bf16 ? 8e-3 : 1e-3) + 1e-6 : 0;
        same = same && (nearly(x, want) || std::fabs(x - want) <= slack);
        same = same && (again[o][static_cast<size_t>(k)] == x || std::isnan(x));
      }
      CHECK_MESSAGE(same, "region " + std::to_string(round) + " output " + std::to_string(o));
    }
  }
  limit_threads(64);
}

TEST("a long sum is exact to f32 and does not depend on threads") {
  const int64_t n = 3000001;
  RandomRegion r;
  r.region.shape = {n};
  r.region.inputs = {{DType::f32, {1}}};
  r.region.outputs = {{0, EwReduce::add}};
  r.region.reduce_dims = 1;
  Floats x = normals(n);
  double sum = 0, size = 0;
  for (float& v : x) {
    v += 1;
    sum += v;
    size += std::fabs(v);
  }
  r.storage.emplace_back(x.size() * 4);
  std::memcpy(r.storage[0].data(), x.data(), x.size() * 4);
  limit_threads(1);
  const double alone = run_region(r, 1)[0][0];
  limit_threads(64);
  CHECK(run_region(r, 1)[0][0] == alone);
  CHECK(std::fabs(alone - sum) < 2e-7 * size);
}

TEST("random_bits is Philox4x32-10 by linear index") {
  // Known answers of the Random123 distribution: counter 0 and key 0; words of block 0.
  const int32_t zero_key[2] = {0, 0};
  EwRegion region;
  region.shape = {3, 1001};
  region.inputs = {{DType::i32, {0, 0}}};
  EwNode node{Ew::random_bits, DType::i32};
  node.operand[0] = 0;
  region.nodes = {node};
  region.outputs = {{1}};
  const auto plan = plan_elementwise(region);
  std::vector<uint32_t> words(3003);
  const void* in = zero_key;
  void* out = words.data();
  run_elementwise({plan.get(), &in, &out});
  const uint32_t known[4] = {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u};
  for (int i = 0; i < 4; i++) CHECK(words[static_cast<size_t>(i)] == known[i]);
  // Every later block from the definition.
  for (uint32_t element = 0; element < 3003; element++) {
    uint32_t c[4] = {element / 4, 0, 0, 0}, k[2] = {0, 0};
    for (int round = 0; round < 10; round++) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c[0], p1 = uint64_t{0xCD9E8D57u} * c[2];
      const uint32_t next[4] = {uint32_t(p1 >> 32) ^ c[1] ^ k[0], uint32_t(p1), uint32_t(p0 >> 32) ^ c[3] ^ k[1], uint32_t(p0)};
      std::memcpy(c, next, 16);
      k[0] += 0x9E3779B9u;
      k[1] += 0xBB67AE85u;
    }
    if (words[element] != c[element % 4]) {
      CHECK_MESSAGE(false, "element " + std::to_string(element));
      break;
    }
  }
}

TEST("a malformed region is refused") {
  const auto refused = [](const EwRegion& region) {
    try {
      plan_elementwise(region);
      return false;
    } catch (const std::exception&) {
      return true;
    }
  };
  EwRegion region;
  region.shape = {4};
  region.inputs = {{DType::i32, {1}}};
  EwNode node{Ew::exponential, DType::i32};
  node.operand[0] = 0;
  region.nodes = {node};
  region.outputs = {{1}};
  CHECK(refused(region));
  region.nodes[0].op = Ew::negate;
  CHECK(!refused(region));
  region.nodes[0].operand[0] = 1;
  CHECK(refused(region));
  region.nodes[0].operand[0] = 0;
  region.outputs = {{7}};
  CHECK(refused(region));
  region.outputs = {{1}};
  region.inputs[0].strides = {1, 1};
  CHECK(refused(region));
}
