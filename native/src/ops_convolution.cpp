// Convolution. Two spatial axes with channels last, and the gradient of their kernel, go to convolution.hpp. All else is an implicit matrix product: tiles of output places are gathered into columns (in scratch memory, never as a whole) and
// multiplied with the kernel. Covers any number of spatial axes, strides, dilations, padding, groups and layouts.
#include <algorithm>
#include <cstring>
#include <optional>

#include "convolution.hpp"
#include "gemm.hpp"
#include "pool.hpp"
#include "program.hpp"
#include "strided.hpp"

namespace howdah {
namespace {

/** What one thread's columns may take, in floats: half of a 1 MB second-level cache. */
constexpr int64_t kTileFloats = 128 << 10;
/** Length of K that is gathered and multiplied at a time. */
constexpr int64_t kBlock = 2048;
/** Below this many multiplications per output, a direct loop beats gathering. */
constexpr int64_t kDirectWork = 64;

/** One spatial axis: which input position lies under tap w of output place o. */
struct SpatialAxis {
  int64_t input = 1, output = 1, window = 1, stride = 1, low = 0, window_dilation = 1, base_dilation = 1;
  int64_t x_stride = 0, y_stride = 0, w_stride = 0;

  int64_t at(int64_t o, int64_t w) const {
    const int64_t position = o * stride + w * window_dilation - low;
    if (base_dilation == 1) return position < 0 || position >= input ? -1 : position;
    if (position < 0 || position % base_dilation != 0) return -1;
    return position / base_dilation < input ? position / base_dilation : -1;
  }
};

/** How the columns of a tile lie in scratch memory, by which axis of the input gives the longest runs. */
enum class Columns {
  along_output,    // [k][column], k = (channel, tap)
  along_window,    // [column][k], k = (channel, tap)
  along_channels,  // [column][k], k = (tap, channel)
};

struct Convolution {
  int64_t groups = 1, batch = 0, features = 0, channels = 0;  // of one group; batch of the output
  int64_t x_batch = 0, x_feature = 0, x_group = 0, y_batch = 0, y_feature = 0;
  SpatialAxis inner;
  std::vector<SpatialAxis> outer;
  int64_t outer_places = 1, outer_taps = 1, places = 1, taps = 1;
  /** Input offset of (outer place, outer tap), or -1 for padding and holes. */
  std::vector<int64_t> outer_offsets;
  /** Output offset of each outer place. */
  std::vector<int64_t> place_offsets;
  Columns columns = Columns::along_output;
  int64_t k = 0, unit = 1, units = 0;  // k = units * unit; blocks are whole units
  bool features_last = false;          // the result is [place][feature] rather than [feature][place]
  int64_t place_stride = 0;            // if places are evenly spaced in the result; else 0
  int64_t tile = 0;
  bool within_image = false, direct_store = false;
  bool bf16 = false;
  /** The same kernel for all places: [groups * features][k]. */
  int64_t tiles_per_image = 0, tiles = 0;

  void gather(const float* x, int64_t first_column, int64_t count, int64_t first_unit, int64_t last_unit, float* out) const;
  void run_tile(const float* x, const float* w, float* y, int64_t group, int64_t tile_index) const;
  void run_direct(const float* x, const float* w, float* y) const;
  void run(const float* x, const float* w, float* y) const;
};

/** Taps (or places) for which position o * a + w * b - low stays inside: the range of one variable when the other is fixed. */
struct Range {
  int64_t first, last;
};
Range inside(int64_t base, int64_t step, int64_t input, int64_t count) {
  // first: smallest i with base + i * step >= 0; last: one past the largest i with base + i * step < input.
  if (step == 1) {
    const int64_t lo = std::clamp<int64_t>(-base, 0, count);
    return {lo, std::clamp<int64_t>(input - base, lo, count)};
  }
  const int64_t first = base >= 0 ? 0 : (-base + step - 1) / step;
  const int64_t last = base >= input ? 0 : (input - 1 - base) / step + 1;
  const int64_t lo = std::min(first, count);
  return {lo, std::clamp(last, lo, count)};
}

void copy_strided(float* out, const float* in, int64_t n, int64_t stride) {
  if (stride == 1)
    std::memcpy(out, in, size_t(n) * sizeof(float));
  else
    for (int64_t i = 0; i < n; ++i) out[i] = in[i * stride];
}

/** Gathers columns first_column .. + count of units first_unit .. last_unit - 1; places outside of the input are zeros. */
void Convolution::gather(const float* x, int64_t first_column, int64_t count, int64_t first_unit, int64_t last_unit, float* out) const {
  const bool holes = inner.base_dilation > 1;
  if (columns == Columns::along_output) {
    // The tile as runs of neighbouring places, found once for all taps.
    struct Run {
      int64_t length, image, outer_place, o;
    };
    Run* runs = reinterpret_cast<Run*>(scratch(2, size_t(count) * sizeof(Run)));
    int64_t run_count = 0;
    for (int64_t at = 0; at < count; at += runs[run_count++].length) {
      const int64_t column = first_column + at, place = column % places, o = place % inner.output;
      runs[run_count] = {std::min(count - at, inner.output - o), column / places, place / inner.output, o};
    }
    // One unit is a row of the window: inner.window rows of the matrix.
    for (int64_t u = first_unit; u < last_unit; ++u) {
      const int64_t channel = u / outer_taps, tap = u % outer_taps;
      for (int64_t w = 0; w < inner.window; ++w) {
        for (int64_t r = 0; r < run_count; ++r) {
          const auto [run, image, outer_place, o] = runs[r];
          const int64_t offset = outer_offsets[size_t(outer_place * outer_taps + tap)];
          float* to = out;
          out += run;
          if (offset < 0) {
            std::fill_n(to, run, 0.0f);
            continue;
          }
          const float* from = x + image * x_batch + channel * x_feature + offset;
          if (holes) {
            for (int64_t i = 0; i < run; ++i) {
              const int64_t position = inner.at(o + i, w);
              to[i] = position < 0 ? 0.0f : from[position * inner.x_stride];
            }
            continue;
          }
          const int64_t base = o * inner.stride + w * inner.window_dilation - inner.low;
          const Range good = inside(base, inner.stride, inner.input, run);
          std::fill_n(to, good.first, 0.0f);
          copy_strided(to + good.first, from + (base + good.first * inner.stride) * inner.x_stride, good.last - good.first,
                       inner.stride * inner.x_stride);
          std::fill_n(to + good.last, run - good.last, 0.0f);
        }
      }
    }
    return;
  }
  for (int64_t at = 0; at < count; ++at) {
    const int64_t column = first_column + at, image = column / places, place = column % places;
    const int64_t outer_place = place / inner.output, o = place % inner.output;
    const float* picture = x + image * x_batch;
    if (columns == Columns::along_window) {
      const int64_t base = o * inner.stride - inner.low;
      const Range good = holes ? Range{0, 0} : inside(base, inner.window_dilation, inner.input, inner.window);
      for (int64_t u = first_unit; u < last_unit; ++u, out += inner.window) {
        const int64_t channel = u / outer_taps, offset = outer_offsets[size_t(outer_place * outer_taps + u % outer_taps)];
        if (offset < 0) {
          std::fill_n(out, inner.window, 0.0f);
          continue;
        }
        const float* from = picture + channel * x_feature + offset;
        if (holes) {
          for (int64_t w = 0; w < inner.window; ++w) {
            const int64_t position = inner.at(o, w);
            out[w] = position < 0 ? 0.0f : from[position * inner.x_stride];
          }
          continue;
        }
        std::fill_n(out, good.first, 0.0f);
        copy_strided(out + good.first, from + (base + good.first * inner.window_dilation) * inner.x_stride, good.last - good.first,
                     inner.window_dilation * inner.x_stride);
        std::fill_n(out + good.last, inner.window - good.last, 0.0f);
      }
      continue;
    }
    // One unit is a tap with all its channels.
    int64_t outer_tap = first_unit / inner.window, w = first_unit % inner.window;
    for (int64_t u = first_unit; u < last_unit; ++u, out += channels) {
      const int64_t offset = outer_offsets[size_t(outer_place * outer_taps + outer_tap)], position = inner.at(o, w);
      if (++w == inner.window) w = 0, ++outer_tap;
      if (offset < 0 || position < 0)
        std::fill_n(out, channels, 0.0f);
      else
        copy_strided(out, picture + offset + position * inner.x_stride, channels, x_feature);
    }
  }
}

void Convolution::run_tile(const float* x, const float* w, float* y, int64_t group, int64_t tile_index) const {
  int64_t first, last;
  if (within_image) {
    const int64_t image = tile_index / tiles_per_image;
    first = image * places + tile_index % tiles_per_image * tile;
    last = std::min((image + 1) * places, first + tile);
  } else {
    first = tile_index * tile;
    last = std::min(batch * places, first + tile);
  }
  const int64_t count = last - first, block_units = std::max<int64_t>(1, kBlock / unit);
  const float* source = x + group * x_group;
  float* target = y + group * features * y_feature;
  float* gathered = scratch(0, size_t(std::min(units, block_units) * unit * count) * sizeof(float));
  float* result = target;
  int64_t ldc;
  if (direct_store) {
    const int64_t image = first / places, place = first % places;
    result = target + image * y_batch + place * place_stride;
    ldc = features_last ? place_stride : y_feature;
  } else {
    result = scratch(1, size_t(features * count) * sizeof(float));
    ldc = features_last ? features : count;
  }
  for (int64_t u = 0; u < units; u += block_units) {
    const int64_t to = std::min(units, u + block_units), length = (to - u) * unit;
    gather(source, first, count, u, to, gathered);
    GemmArgs args;
    args.k = length;
    args.c = result;
    args.ldc = ldc;
    args.beta = u == 0 ? 0.0f : 1.0f;
    args.bf16_compute = bf16;
    const float* kernel = w + group * features * k + u * unit;
    const bool by_k = columns == Columns::along_output;  // the gathered matrix is k x columns
    if (features_last) {
      args.m = count, args.n = features;
      args.a = gathered, args.lda = by_k ? count : length, args.trans_a = by_k;
      args.b = kernel, args.ldb = k, args.trans_b = true;
    } else {
      args.m = features, args.n = count;
      args.a = kernel, args.lda = k;
      args.b = gathered, args.ldb = by_k ? count : length, args.trans_b = !by_k;
    }
    gemm_inline(args);
  }
  if (direct_store) return;
  for (int64_t at = 0; at < count; ++at) {
    const int64_t column = first + at, image = column / places, place = column % places;
    float* to = target + image * y_batch + place_offsets[size_t(place / inner.output)] + place % inner.output * inner.y_stride;
    const float* from = features_last ? result + at * features : result + at;
    const int64_t step = features_last ? 1 : count;
    for (int64_t f = 0; f < features; ++f) to[f * y_feature] = from[f * step];
  }
}

/** Few multiplications per output (depthwise, mostly): rows of the result are summed tap by tap. */
void Convolution::run_direct(const float* x, const float* w, float* y) const {
  parallel_for(batch * groups * features, [&](int64_t task, int) {
    const int64_t image = task / (groups * features), f = task % (groups * features), group = f / features;
    const float* source = x + group * x_group + image * x_batch;
    const float* kernel = w + f * k;
    float* target = y + image * y_batch + f * y_feature;
    float* row = scratch(0, size_t(inner.output) * sizeof(float));
    Range* good = reinterpret_cast<Range*>(scratch(1, size_t(inner.window) * sizeof(Range)));
    for (int64_t i = 0; i < inner.window; ++i) good[i] = inside(i * inner.window_dilation - inner.low, inner.stride, inner.input, inner.output);
    for (int64_t p = 0; p < outer_places; ++p) {
      std::fill_n(row, inner.output, 0.0f);
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t t = 0; t < outer_taps; ++t) {
          const int64_t offset = outer_offsets[size_t(p * outer_taps + t)];
          if (offset < 0) continue;
          const float* from = source + c * x_feature + offset;
          for (int64_t i = 0; i < inner.window; ++i) {
            const float factor = kernel[(c * outer_taps + t) * inner.window + i];
            if (inner.base_dilation > 1) {
              for (int64_t o = 0; o < inner.output; ++o)
                if (const int64_t position = inner.at(o, i); position >= 0) row[o] += factor * from[position * inner.x_stride];
              continue;
            }
            const int64_t base = i * inner.window_dilation - inner.low;
            const auto [first, last] = good[i];
            const float* run = from + base * inner.x_stride;
            const int64_t step = inner.stride * inner.x_stride;
            if (step == 1)
              for (int64_t o = first; o < last; ++o) row[o] += factor * run[o];
            else
              for (int64_t o = first; o < last; ++o) row[o] += factor * run[o * step];
          }
        }
      float* to = target + place_offsets[size_t(p)];
      for (int64_t o = 0; o < inner.output; ++o) to[o * inner.y_stride] = row[o];
    }
  });
}

void Convolution::run(const float* x, const float* w, float* y) const {
  if (tile == 0) return run_direct(x, w, y);
  parallel_for(tiles * groups, [&](int64_t task, int) { run_tile(x, w, y, task / tiles, task % tiles); });
}

/** The three operands' axes as their specs name them: batch, feature, spatial... (for the kernel: output, input, spatial...). */
struct Spec {
  Shape sizes, strides;
  Spec(const Instruction& instruction, const TensorType& type, const char* name) {
    const auto axes = instruction.attribute(name).integers();
    if (int(axes.size()) != type.rank() || axes.size() < 2) instruction.wrong(std::string("\"") + name + "\" does not name all axes");
    const Shape own = strides_of(type.shape);
    std::vector<bool> seen(axes.size());
    for (const int64_t axis : axes) {
      if (axis < 0 || axis >= type.rank() || seen[size_t(axis)]) instruction.wrong(std::string("\"") + name + "\" is not an order of the axes");
      seen[size_t(axis)] = true;
      sizes.push_back(type.shape[size_t(axis)]);
      strides.push_back(own[size_t(axis)]);
    }
  }
};

std::vector<int64_t> spatial_list(const Instruction& instruction, const char* name, size_t count, int64_t fallback) {
  if (!instruction.attributes->has(name)) return std::vector<int64_t>(count, fallback);
  auto list = instruction.attribute(name).integers();
  if (list.size() != count) instruction.wrong(std::string("\"") + name + "\" needs one number per spatial axis");
  return list;
}

void plan_tiles(Convolution& conv, int64_t channels_stride) {
  conv.k = conv.channels * conv.taps;
  // Places at even distances can be stored without a detour.
  conv.place_stride = conv.inner.output > 1 ? conv.inner.y_stride : conv.outer_places > 1 ? conv.place_offsets[1] : 1;
  for (int64_t p = 0; p < conv.outer_places; ++p)
    if (conv.place_offsets[size_t(p)] != p * conv.inner.output * conv.place_stride) conv.place_stride = 0;
  conv.features_last = conv.y_feature == 1 && conv.features > 1;

  if (channels_stride == 1 && conv.channels >= 8) conv.columns = Columns::along_channels;
  else if (conv.inner.window > conv.inner.output) conv.columns = Columns::along_window;
  conv.unit = conv.columns == Columns::along_channels ? conv.channels : conv.inner.window;
  conv.units = conv.unit == 0 ? 0 : conv.k / conv.unit;

  if (conv.features * conv.k <= kDirectWork && conv.columns != Columns::along_channels) return;  // tile stays 0: the direct loop
  const int64_t length = std::min(conv.k, std::max(kBlock, conv.unit));
  int64_t tile = std::clamp<int64_t>(kTileFloats / std::max<int64_t>(1, length), 32, 1024) / 16 * 16;
  // Enough tiles for many threads, by the shape alone.
  while (tile > 32 && conv.batch * conv.places * conv.groups / tile < 32) tile /= 2;
  const bool places_even = conv.place_stride != 0 && (conv.features_last ? conv.place_stride >= conv.features : conv.place_stride == 1);
  const bool images_even = conv.features_last && conv.y_batch == conv.places * conv.place_stride;
  conv.within_image = places_even && !images_even && conv.places >= 32;
  conv.direct_store = places_even && (conv.within_image || images_even || conv.batch == 1) &&
                      (conv.features_last || conv.y_feature >= conv.places || conv.features == 1);
  conv.tile = std::min(tile, conv.within_image ? conv.places : conv.batch * conv.places);
  conv.tiles_per_image = (conv.places + conv.tile - 1) / conv.tile;
  conv.tiles = conv.within_image ? conv.batch * conv.tiles_per_image : (conv.batch * conv.places + conv.tile - 1) / conv.tile;
}

/** Fewer features than this leave most of a vector of the direct kernels empty. */
constexpr int64_t kDirectFeatures = 8;

/** The arguments of direct_convolution, if this is one: two spatial axes, channels last, one group. */
std::optional<DirectConvolutionArgs> plan_direct(const Spec& xs, const Spec& ws, const Spec& ys, const std::vector<SpatialAxis>& axes, bool bf16) {
  if (axes.size() != 2 || ys.sizes[1] < kDirectFeatures || ys.strides[1] != 1 || (xs.strides[1] != 1 && xs.sizes[1] != 1)) return std::nullopt;
  DirectConvolutionArgs args;
  args.batch = ys.sizes[0], args.channels = xs.sizes[1], args.features = ys.sizes[1];
  const auto axis = [](const SpatialAxis& a) { return WindowAxis{a.input, a.output, a.window, a.stride, a.low, a.base_dilation}; };
  for (const SpatialAxis& a : axes)
    if (a.window_dilation != 1) return std::nullopt;
  args.height = axis(axes[0]), args.width = axis(axes[1]);
  args.x_batch = xs.strides[0], args.x_row = xs.strides[2], args.x_column = xs.strides[3];
  args.w_feature = ws.strides[0], args.w_channel = ws.strides[1], args.w_row = ws.strides[2], args.w_column = ws.strides[3];
  args.y_batch = ys.strides[0], args.y_row = ys.strides[2], args.y_column = ys.strides[3];
  args.bf16_compute = bf16;
  return args;
}

/**
 * The arguments of kernel_gradient, if this is one: the input's channels are its batch and the images what is summed over, the gradient of the result is
 * the kernel, spread by the strides, and the result has one place per tap.
 */
std::optional<KernelGradientArgs> plan_kernel_gradient(const Spec& xs, const Spec& gs, const Spec& ws, const std::vector<SpatialAxis>& axes, bool bf16) {
  if (axes.size() != 2 || xs.strides[0] != 1 || gs.strides[0] != 1 || gs.sizes[0] < kDirectFeatures) return std::nullopt;
  KernelGradientArgs args;
  args.batch = xs.sizes[1], args.channels = xs.sizes[0], args.features = gs.sizes[0];
  const auto axis = [](const SpatialAxis& a) { return WindowAxis{a.input, a.window, a.output, a.window_dilation, a.low, 1}; };
  for (const SpatialAxis& a : axes)
    if (a.stride != 1 || a.base_dilation != 1) return std::nullopt;
  args.height = axis(axes[0]), args.width = axis(axes[1]);
  // The sums of one part have to stay in the second-level cache.
  if (args.height.window * args.width.window * args.channels * args.features > (96 << 10)) return std::nullopt;
  args.x_batch = xs.strides[1], args.x_row = xs.strides[2], args.x_column = xs.strides[3];
  args.g_batch = gs.strides[1], args.g_row = gs.strides[2], args.g_column = gs.strides[3];
  args.w_feature = ws.strides[1], args.w_channel = ws.strides[0], args.w_row = ws.strides[2], args.w_column = ws.strides[3];
  args.bf16_compute = bf16;
  return args;
}

std::shared_ptr<const EwPlan> conversion(DType from, DType to, int64_t size) {
  EwRegion region;
  region.shape = {size};
  region.inputs.push_back({from, {1}});
  region.nodes.push_back({Ew::convert, to, {0, -1, -1}});
  region.outputs.push_back({1, EwReduce::none});
  return plan_elementwise(region);
}

/**
 * convolution(x, w) {strides, low, high, lhs_dilation, rhs_dilation, groups, batch_groups, input_spec, kernel_spec, output_spec}, as
 * StableHLO's. Sums are in f32. bf16 is read and written as it lies by the kernels of convolution.hpp, but for the weights; what else is not f32 is
 * converted before or after.
 */
Kernel make_convolution(Instruction& instruction) {
  const TensorType x = instruction.input(0), w = instruction.input(1), y = instruction.output(0);
  for (const TensorType& type : {x, w, y})
    if (!is_float(type.dtype)) instruction.wrong("it takes floating types only");
  if (x.rank() != w.rank() || x.rank() != y.rank()) instruction.wrong("the ranks differ");
  const Spec xs(instruction, x, "input_spec"), ws(instruction, w, "kernel_spec"), ys(instruction, y, "output_spec");
  const size_t spatial = x.shape.size() - 2;
  const auto strides = spatial_list(instruction, "strides", spatial, 1), low = spatial_list(instruction, "low", spatial, 0),
             high = spatial_list(instruction, "high", spatial, 0), base = spatial_list(instruction, "lhs_dilation", spatial, 1),
             dilation = spatial_list(instruction, "rhs_dilation", spatial, 1);
  const int64_t groups = instruction.attributes->integer("groups", 1), batch_groups = instruction.attributes->integer("batch_groups", 1);
  if (groups < 1 || batch_groups < 1 || (groups > 1 && batch_groups > 1)) instruction.wrong("the groups are wrong");

  Convolution conv;
  conv.bf16 = instruction.bf16_matmul;
  conv.groups = groups * batch_groups;
  conv.batch = ys.sizes[0];
  conv.features = ys.sizes[1] / conv.groups;
  conv.channels = ws.sizes[1];
  if (ws.sizes[0] != ys.sizes[1] || xs.sizes[1] != conv.channels * groups || xs.sizes[0] != conv.batch * batch_groups ||
      conv.features * conv.groups != ys.sizes[1])
    instruction.wrong("batch, features and groups do not fit");
  conv.x_batch = xs.strides[0], conv.x_feature = xs.strides[1];
  conv.x_group = groups > 1 ? conv.channels * xs.strides[1] : conv.batch * xs.strides[0];
  conv.y_batch = ys.strides[0], conv.y_feature = ys.strides[1];
  for (size_t i = 0; i < spatial; ++i) {
    SpatialAxis axis{xs.sizes[i + 2], ys.sizes[i + 2], ws.sizes[i + 2], strides[i], low[i], dilation[i], base[i], xs.strides[i + 2], ys.strides[i + 2], ws.strides[i + 2]};
    if (axis.stride < 1 || axis.window_dilation < 1 || axis.base_dilation < 1) instruction.wrong("strides and dilations must be positive");
    const int64_t length = (axis.input == 0 ? 0 : (axis.input - 1) * axis.base_dilation + 1) + low[i] + high[i];
    const int64_t reach = axis.window == 0 ? 0 : (axis.window - 1) * axis.window_dilation + 1;
    if (axis.output != (length < reach ? 0 : (length - reach) / axis.stride + 1)) instruction.wrong("the windows do not fit the result's shape");
    conv.places *= axis.output, conv.taps *= axis.window;
    if (i + 1 == spatial) conv.inner = axis;
    else conv.outer.push_back(axis);
  }
  for (const SpatialAxis& axis : conv.outer) conv.outer_places *= axis.output, conv.outer_taps *= axis.window;
  if (y.size == 0) return [](const Call&) {};
  if (x.size == 0 || w.size == 0) {
    const int64_t bytes = y.bytes;
    return [bytes](const Call& call) { std::memset(call.out[0], 0, size_t(bytes)); };
  }
  for (int64_t p = 0; p < conv.outer_places; ++p) {
    int64_t rest = p, offset = 0;
    for (size_t d = conv.outer.size(); d-- > 0;) {
      offset += rest % conv.outer[d].output * conv.outer[d].y_stride;
      rest /= conv.outer[d].output;
    }
    conv.place_offsets.push_back(offset);
    for (int64_t t = 0; t < conv.outer_taps; ++t) {
      int64_t place = p, tap = t, from = 0;
      for (size_t d = conv.outer.size(); d-- > 0 && from >= 0;) {
        const SpatialAxis& axis = conv.outer[d];
        const int64_t position = axis.at(place % axis.output, tap % axis.window);
        from = position < 0 ? -1 : from + position * axis.x_stride;
        place /= axis.output, tap /= axis.window;
      }
      conv.outer_offsets.push_back(from);
    }
  }
  plan_tiles(conv, xs.strides[1]);
  std::vector<SpatialAxis> axes = conv.outer;
  axes.push_back(conv.inner);
  const auto direct = conv.groups == 1 && spatial > 0 ? plan_direct(xs, ws, ys, axes, conv.bf16) : std::nullopt;
  const auto gradient = conv.groups == 1 && spatial > 0 && !direct ? plan_kernel_gradient(xs, ws, ys, axes, conv.bf16) : std::nullopt;

  // The kernel as [features][channel][tap] or [features][tap][channel], copied unless it lies so already.
  Shape shape, kernel_strides;
  auto push = [&](size_t i) {
    shape.push_back(ws.sizes[i]);
    kernel_strides.push_back(ws.strides[i]);
  };
  push(0);
  if (conv.columns != Columns::along_channels) push(1);
  for (size_t i = 2; i < ws.sizes.size(); ++i) push(i);
  if (conv.columns == Columns::along_channels) push(1);
  std::optional<StridedCopy> arrange;
  int64_t arranged = 0;
  const Shape wanted = strides_of(shape);
  for (size_t i = 0; i < shape.size(); ++i)
    if (shape[i] != 1 && kernel_strides[i] != wanted[i] && !arrange) arrange = StridedCopy(shape, kernel_strides, wanted, 4);
  if (direct || gradient) arrange.reset();
  if (arrange) arranged = instruction.reserve(w.size * 4);

  /** A copy in f32, where one is needed. */
  struct Copy {
    std::shared_ptr<const EwPlan> plan;
    int64_t at = 0;
    void run(const void* from, void* to) const { run_elementwise({plan.get(), &from, &to}); }
    const void* of(const void* data, const Call& call) const {
      if (!plan) return data;
      run(data, call.workspace + at);
      return call.workspace + at;
    }
  };
  const auto copy = [&](const TensorType& type, bool into, bool takes_half) {
    if (type.dtype == DType::f32 || (takes_half && type.dtype == DType::bf16)) return Copy{};
    return Copy{into ? conversion(DType::f32, type.dtype, type.size) : conversion(type.dtype, DType::f32, type.size), instruction.reserve(type.size * 4)};
  };
  const Copy x_copy = copy(x, false, direct || gradient), w_copy = copy(w, false, gradient.has_value()), y_copy = copy(y, true, direct.has_value());
  const auto half = [](const TensorType& type, const Copy& c) { return !c.plan && type.dtype == DType::bf16; };
  return [=, x_half = half(x, x_copy), w_half = half(w, w_copy), y_half = half(y, y_copy)](const Call& call) {
    const void *x_data = x_copy.of(call.in[0], call), *w_data = w_copy.of(call.in[1], call);
    void* y_data = y_copy.plan ? call.workspace + y_copy.at : call.out[0];
    if (arrange) {
      arrange->run(w_data, call.workspace + arranged);
      w_data = call.workspace + arranged;
    }
    if (direct) {
      DirectConvolutionArgs args = *direct;
      args.x = {x_data, x_half}, args.w = static_cast<const float*>(w_data), args.y = y_data, args.y_half = y_half;
      direct_convolution(args);
    } else if (gradient) {
      KernelGradientArgs args = *gradient;
      args.x = {x_data, x_half}, args.g = {w_data, w_half}, args.dw = static_cast<float*>(y_data);
      kernel_gradient(args);
    } else {
      conv.run(static_cast<const float*>(x_data), static_cast<const float*>(w_data), static_cast<float*>(y_data));
    }
    if (y_copy.plan) y_copy.run(y_data, call.out[0]);
  };
}

}  // namespace

std::vector<KernelEntry> convolution_kernels() { return {{"convolution", make_convolution}}; }

}  // namespace howdah
