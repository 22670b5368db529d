// Runs planned element-wise regions: cuts them into tasks, and reduces their results where the region asks for it.
#include "elementwise_machine.hpp"

namespace howdah::HOWDAH_ISA {

namespace {

// ---- Reductions ----

/** A running sum, maximum or minimum: f64 or i64 where many words meet, so that long sums keep their bits. */
struct Total {
  double number = 0;
  int64_t integer = 0;
};

Total identity(const EwPlan::Output& output) {
  constexpr double inf = __builtin_inf();
  if (output.reduce == EwReduce::add) return {};
  const bool high = output.reduce == EwReduce::minimum;
  switch (output.type) {
    case DType::i32: return {0, high ? INT32_MAX : INT32_MIN};
    case DType::u8: return {0, high ? 255 : 0};
    case DType::i8: return {0, high ? 127 : -128};
    case DType::boolean: return {0, high ? 1 : 0};
    default: return {high ? inf : -inf, 0};
  }
}

Total combine(const EwPlan::Output& output, Total a, Total b) {
  switch (output.reduce) {
    case EwReduce::maximum:
      return {a.number > b.number || a.number != a.number ? a.number : b.number, std::max(a.integer, b.integer)};
    case EwReduce::minimum:
      return {a.number < b.number || a.number != a.number ? a.number : b.number, std::min(a.integer, b.integer)};
    default:
      return {a.number + b.number, a.integer + b.integer};
  }
}

/** The words of `reg`, n of them, as one total. */
Total reduce_words(const EwPlan::Output& output, const float* reg, int64_t n) {
  if (!is_float(output.type)) {
    Total total = identity(output);
    for (int64_t i = 0; i < n; i++) total = combine(output, total, {0, ints(reg)[i]});
    return total;
  }
  if (n < W) {
    Total total = identity(output);
    for (int64_t i = 0; i < n; i++) total = combine(output, total, {reg[i], 0});
    return total;
  }
  const auto across = [&](auto join, vf start) {
    vf lane[4] = {start, start, start, start};
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) lane[j] = join(lane[j], load(reg + i + j * W));
    }
    for (; i + W <= n; i += W) lane[0] = join(lane[0], load(reg + i));
    // Lanes past the end repeat the start value.
    if (i < n) lane[1] = join(lane[1], select(first_n(n - i), load_n(reg + i, n - i), start));
    return join(join(lane[0], lane[1]), join(lane[2], lane[3]));
  };
  if (output.reduce == EwReduce::add) return {reduce_add(across([](vf a, vf b) { return a + b; }, zero())), 0};
  const bool largest = output.reduce == EwReduce::maximum;
  const vf best = largest ? across([](vf a, vf b) { return maximum(a, b); }, splat(-__builtin_inff()))
                          : across([](vf a, vf b) { return minimum(a, b); }, splat(__builtin_inff()));
  if (any(ne(best, best))) return {__builtin_nan(""), 0};
  return {largest ? reduce_max(best) : reduce_min(best), 0};
}

void write_total(const EwPlan::Output& output, void* target, int64_t index, Total total) {
  float word;
  if (is_float(output.type)) {
    word = static_cast<float>(total.number);
  } else {
    const int32_t integer = wrap(total.integer);
    std::memcpy(&word, &integer, 4);
  }
  deposit(target, output.type, index, &word, 1);
}

/** `kept` groups of `reduced` neighbouring elements. */
void reduce_trailing(const EwRunArgs& args) {
  const EwPlan& plan = *args.plan;
  const int64_t groups = plan.kept, length = plan.reduced;
  const size_t outputs = plan.outputs.size();
  if (length <= plan.lanes / 2 && plan.row == 1) {
    // Several groups to a tile.
    const int64_t per_tile = plan.lanes / length;
    const int64_t per_task = std::max(per_tile, kTaskElements / length / per_tile * per_tile);
    parallel_for((groups + per_task - 1) / per_task, [&](int64_t task, int) {
      Machine machine(args, plan.lanes);
      const int64_t last = std::min(groups, (task + 1) * per_task);
      for (int64_t g = task * per_task; g < last; g += per_tile) {
        const int64_t count = std::min(per_tile, last - g);
        machine.tile(g * length, count * length);
        for (size_t o = 0; o < outputs; o++) {
          const EwPlan::Output& output = plan.outputs[o];
          if (output.reduce == EwReduce::none) continue;
          const float* words = machine.result(output);
          for (int64_t i = 0; i < count; i++) {
            write_total(output, args.outputs[o], g + i, reduce_words(output, words + i * length, length));
          }
        }
      }
    });
    return;
  }
  // Long groups are cut into chunks, whose totals are combined in order.
  const int64_t chunk = std::min(length, 4 * kTaskElements);
  const int64_t chunks = (length + chunk - 1) / chunk;
  const int64_t per_task = std::max<int64_t>(1, kTaskElements / chunk);
  Total* partial = nullptr;
  if (chunks > 1) {
    partial = reinterpret_cast<Total*>(scratch(1, static_cast<size_t>(groups * chunks) * outputs * sizeof(Total)));
  }
  parallel_for((groups * chunks + per_task - 1) / per_task, [&](int64_t task, int) {
    Machine machine(args, plan.lanes);
    for (int64_t piece = task * per_task; piece < std::min(groups * chunks, (task + 1) * per_task); piece++) {
      const int64_t group = piece / chunks, part = piece % chunks;
      const int64_t begin = group * length + part * chunk, end = std::min(begin + chunk, (group + 1) * length);
      constexpr size_t kInline = 8;
      Total few[kInline];
      std::vector<Total> many(outputs > kInline ? outputs : 0);
      Total* totals = outputs > kInline ? many.data() : few;
      for (size_t o = 0; o < outputs; o++) totals[o] = identity(plan.outputs[o]);
      for (int64_t start = begin; start < end;) {
        const int64_t stop = tile_end(plan, start, end);
        machine.tile(start, stop - start);
        for (size_t o = 0; o < outputs; o++) {
          const EwPlan::Output& output = plan.outputs[o];
          if (output.reduce == EwReduce::none) continue;
          totals[o] = combine(output, totals[o], reduce_words(output, machine.result(output), stop - start));
        }
        start = stop;
      }
      for (size_t o = 0; o < outputs; o++) {
        if (plan.outputs[o].reduce == EwReduce::none) continue;
        if (partial) partial[static_cast<size_t>(piece) * outputs + o] = totals[o];
        else write_total(plan.outputs[o], args.outputs[o], group, totals[o]);
      }
    }
  });
  if (!partial) return;
  for (int64_t group = 0; group < groups; group++) {
    for (size_t o = 0; o < outputs; o++) {
      const EwPlan::Output& output = plan.outputs[o];
      if (output.reduce == EwReduce::none) continue;
      Total total = identity(output);
      for (int64_t part = 0; part < chunks; part++) {
        total = combine(output, total, partial[static_cast<size_t>(group * chunks + part) * outputs + o]);
      }
      write_total(output, args.outputs[o], group, total);
    }
  }
}

/** acc[i] = acc[i] joined with reg[i]. */
void accumulate(const EwPlan::Output& output, float* acc, const float* reg, int64_t n) {
  const bool floating = is_float(output.type);
  switch (output.reduce) {
    case EwReduce::maximum:
      if (floating) binary<vf, [](vf x, vf y) { return maximum(x, y); }>(acc, acc, reg, nullptr, n);
      else binary<vi, [](vi x, vi y) { return max(x, y); }>(acc, acc, reg, nullptr, n);
      break;
    case EwReduce::minimum:
      if (floating) binary<vf, [](vf x, vf y) { return minimum(x, y); }>(acc, acc, reg, nullptr, n);
      else binary<vi, [](vi x, vi y) { return min(x, y); }>(acc, acc, reg, nullptr, n);
      break;
    default:
      if (floating) binary<vf, [](vf x, vf y) { return x + y; }>(acc, acc, reg, nullptr, n);
      else binary<vi, [](vi x, vi y) { return (vi)((vu)x + (vu)y); }>(acc, acc, reg, nullptr, n);
  }
}

void fill_identity(const EwPlan::Output& output, float* acc, int64_t n) {
  const Total total = identity(output);
  float word;
  if (is_float(output.type)) word = static_cast<float>(total.number);
  else {
    const int32_t integer = static_cast<int32_t>(total.integer);
    std::memcpy(&word, &integer, 4);
  }
  std::fill_n(ints(acc), n, std::bit_cast<int32_t>(word));
}

Total word_total(const EwPlan::Output& output, const float* word) {
  return is_float(output.type) ? Total{*word, 0} : Total{0, *ints(word)};
}

/** (reduced, kept): blocks of rows are accumulated column by column, then the blocks in order. */
void reduce_leading(const EwRunArgs& args) {
  const EwPlan& plan = *args.plan;
  const int64_t rows = plan.reduced, columns = plan.kept;
  const size_t outputs = plan.outputs.size();
  // Narrow rows: several to a tile, folded at the end of the block.
  const int64_t rows_per_tile = plan.row == 1 && columns <= plan.lanes / 2 ? plan.lanes / columns : 1;
  const int64_t strip = rows_per_tile > 1 ? columns : std::min<int64_t>(columns, 4 * plan.lanes);
  const int64_t strips = (columns + strip - 1) / strip;
  int64_t block = std::max<int64_t>(4 * kTaskElements / strip, (rows + 63) / 64);
  block = (block + rows_per_tile - 1) / rows_per_tile * rows_per_tile;
  const int64_t blocks = (rows + block - 1) / block;
  float* partial = scratch(1, outputs * static_cast<size_t>(blocks * columns) * 4);
  parallel_for(blocks * strips, [&](int64_t task, int) {
    Machine machine(args, plan.lanes);
    const int64_t b = task / strips, first = task % strips * strip;
    const int64_t width = std::min(strip, columns - first);
    const int64_t wide = width * rows_per_tile; // accumulators per output
    float* acc = scratch(2, outputs * static_cast<size_t>(wide) * 4);
    for (size_t o = 0; o < outputs; o++) fill_identity(plan.outputs[o], acc + static_cast<int64_t>(o) * wide, wide);
    const int64_t last = std::min(rows, (b + 1) * block);
    for (int64_t r = b * block; r < last; r += rows_per_tile) {
      const int64_t begin = r * columns + first;
      const int64_t end = begin + width * std::min(rows_per_tile, last - r);
      for (int64_t start = begin; start < end;) {
        const int64_t stop = tile_end(plan, start, end);
        machine.tile(start, stop - start);
        for (size_t o = 0; o < outputs; o++) {
          const EwPlan::Output& output = plan.outputs[o];
          if (output.reduce == EwReduce::none) continue;
          accumulate(output, acc + static_cast<int64_t>(o) * wide + (start - begin), machine.result(output), stop - start);
        }
        start = stop;
      }
    }
    for (size_t o = 0; o < outputs; o++) {
      float* from = acc + static_cast<int64_t>(o) * wide;
      for (int64_t i = 1; i < rows_per_tile; i++) accumulate(plan.outputs[o], from, from + i * width, width);
      std::memcpy(partial + (static_cast<int64_t>(o) * blocks + b) * columns + first, from, static_cast<size_t>(width) * 4);
    }
  });
  for (size_t o = 0; o < outputs; o++) {
    const EwPlan::Output& output = plan.outputs[o];
    if (output.reduce == EwReduce::none) continue;
    const float* from = partial + static_cast<int64_t>(o) * blocks * columns;
    for (int64_t c = 0; c < columns; c++) {
      Total total = word_total(output, from + c);
      for (int64_t b = 1; b < blocks; b++) total = combine(output, total, word_total(output, from + b * columns + c));
      write_total(output, args.outputs[o], c, total);
    }
  }
}

} // namespace

void run_elementwise(const EwRunArgs& args) {
  const EwPlan& plan = *args.plan;
  if (plan.has_reduction) {
    if (plan.reduced == 0) {
      for (size_t o = 0; o < plan.outputs.size(); o++) {
        if (plan.outputs[o].reduce == EwReduce::none) continue;
        const Total total = identity(plan.outputs[o]);
        for (int64_t i = 0; i < plan.kept; i++) write_total(plan.outputs[o], args.outputs[o], i, total);
      }
    } else if (plan.kept > 0) {
      plan.leading ? reduce_leading(args) : reduce_trailing(args);
    }
    return;
  }
  if (plan.total == 0) return;
  // Whole rows to a task where rows matter.
  const int64_t per_task = plan.row > 1 && plan.row < kTaskElements ? kTaskElements / plan.row * plan.row : kTaskElements;
  const int64_t longest = std::min(plan.lanes, plan.total);
  parallel_for((plan.total + per_task - 1) / per_task, [&](int64_t task, int) {
    Machine machine(args, longest);
    const int64_t end = std::min(plan.total, (task + 1) * per_task);
    for (int64_t start = task * per_task; start < end;) {
      const int64_t stop = tile_end(plan, start, end);
      machine.tile(start, stop - start);
      start = stop;
    }
  });
}

} // namespace howdah::HOWDAH_ISA
