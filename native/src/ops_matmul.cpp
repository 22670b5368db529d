// dot_general: mapped onto the GEMM by strides where the layout allows, with transposed copies in the workspace where it does not.
#include <algorithm>
#include <optional>
#include <utility>

#include "gemm.hpp"
#include "pool.hpp"
#include "program.hpp"
#include "scalar.hpp"
#include "strided.hpp"

namespace howdah {
namespace {

struct Axis {
  int64_t size, stride;
};

/** Some dimensions of an operand, in the order in which they are flattened together. */
std::vector<Axis> take_axes(const Shape& shape, const Shape& strides, const std::vector<int64_t>& axes) {
  std::vector<Axis> out;
  for (const int64_t axis : axes) out.push_back({shape[size_t(axis)], strides[size_t(axis)]});
  return out;
}

/** The axes as one of a single stride, or nothing. Axes of size 1 have any stride; they give 0. */
std::optional<Axis> flatten(const std::vector<Axis>& axes) {
  Axis flat{1, 0};
  for (const Axis& axis : axes) {
    if (axis.size == 1) continue;
    if (flat.size != 1 && flat.stride != axis.size * axis.stride) return std::nullopt;
    flat = {flat.size * axis.size, axis.stride};
  }
  return flat;
}

int64_t product(const std::vector<Axis>& axes) {
  int64_t n = 1;
  for (const Axis& axis : axes) n *= axis.size;
  return n;
}

/** One operand as the GEMM wants it: `rows` is its free dimension and `columns` the contracted one. */
struct Matrix {
  std::vector<Axis> batch;
  int64_t rows = 1, columns = 1;
  int64_t leading = 1;
  bool transposed = false;  // stored columns x rows
  Type type = Type::f32;
  /** If set, the operand is first brought into the workspace, as batch x rows x columns. */
  std::optional<StridedCopy> copy;
  /** If set, it is first converted from f16. */
  bool convert = false;
  int64_t workspace = 0;
  int64_t size = 0;
};

Matrix plan_matrix(Instruction& instruction, const TensorType& x, const std::vector<int64_t>& batch, const std::vector<int64_t>& contract,
                   const char* side) {
  std::vector<int64_t> role(x.shape.size(), 0), free_axes;
  for (const auto* list : {&batch, &contract})
    for (const int64_t axis : *list) {
      if (axis < 0 || axis >= x.rank() || role[size_t(axis)]) instruction.wrong(std::string("the axes of the ") + side + " operand are wrong");
      role[size_t(axis)] = 1;
    }
  for (int i = 0; i < x.rank(); ++i)
    if (!role[size_t(i)]) free_axes.push_back(i);

  const Shape strides = strides_of(x.shape);
  Matrix m;
  m.batch = take_axes(x.shape, strides, batch);
  const auto free_list = take_axes(x.shape, strides, free_axes), contract_list = take_axes(x.shape, strides, contract);
  m.rows = product(free_list);
  m.columns = product(contract_list);
  m.size = x.size;
  m.type = x.dtype == DType::bf16 ? Type::bf16 : Type::f32;
  m.convert = x.dtype == DType::f16;
  const auto rows = flatten(free_list), columns = flatten(contract_list);
  const int64_t n_rows = std::max<int64_t>(m.rows, 1), n_columns = std::max<int64_t>(m.columns, 1);
  if (rows && columns && (columns->stride == 1 || columns->size == 1) && (rows->size == 1 || rows->stride >= n_columns)) {
    m.leading = rows->size == 1 ? n_columns : rows->stride;
  } else if (rows && columns && (rows->stride == 1 || rows->size == 1) && (columns->size == 1 || columns->stride >= n_rows)) {
    m.transposed = true;
    m.leading = columns->size == 1 ? n_rows : columns->stride;
  } else {
    Shape shape, in;
    for (const std::vector<Axis>* list : {&std::as_const(m.batch), &free_list, &contract_list})
      for (const Axis& axis : *list) {
        shape.push_back(axis.size);
        in.push_back(axis.stride);
      }
    m.copy = StridedCopy(shape, in, strides_of(shape), bytes_of(x.dtype));
    m.workspace = instruction.reserve(x.bytes);
    m.leading = n_columns;
    int64_t stride = m.rows * m.columns;
    for (size_t i = m.batch.size(); i-- > 0;) {
      m.batch[i].stride = stride;
      stride *= m.batch[i].size;
    }
  }
  return m;
}

/** The largest number of trailing batch axes that all three matrices see as one axis, and what stays outside. */
struct Batches {
  struct Outer {
    int64_t size, a, b, c;
  };
  std::vector<Outer> outer;
  int64_t count = 1, outer_count = 1, stride_a = 0, stride_b = 0, stride_c = 0;

  Batches(const std::vector<Axis>& a, const std::vector<Axis>& b, const std::vector<Axis>& c) {
    std::vector<Outer> merged;
    for (size_t i = 0; i < a.size(); ++i) {
      if (a[i].size == 1) continue;
      const Outer axis{a[i].size, a[i].stride, b[i].stride, c[i].stride};
      auto joins = [&](const Outer& last) {
        return last.a == axis.a * axis.size && last.b == axis.b * axis.size && last.c == axis.c * axis.size;
      };
      if (!merged.empty() && joins(merged.back()))
        merged.back() = {merged.back().size * axis.size, axis.a, axis.b, axis.c};
      else
        merged.push_back(axis);
    }
    if (merged.empty()) return;
    // The longest axis goes to the GEMM, which spreads it over the threads.
    const auto longest = std::max_element(merged.begin(), merged.end(), [](const Outer& x, const Outer& y) { return x.size < y.size; });
    count = longest->size, stride_a = longest->a, stride_b = longest->b, stride_c = longest->c;
    merged.erase(longest);
    outer = merged;
    for (const Outer& axis : outer) outer_count *= axis.size;
  }
};

Activation parse_activation(const Instruction& instruction, const Json& epilogue) {
  const std::string name = epilogue.string("activation", "");
  if (name.empty()) return Activation::none;
  if (name == "gelu_tanh") return Activation::gelu_tanh;
  if (name == "gelu") return Activation::gelu_erf;
  if (name == "silu") return Activation::silu;
  if (name == "relu") return Activation::relu;
  instruction.wrong("\"" + name + "\" is not an activation of the matmul epilogue");
}

/** Integers: plain loops; sums wrap around. */
template <class T>
void integer_matmul(const GemmArgs& args, const T* a, const T* b, T* c) {
  parallel_for(args.m, [&](int64_t i, int) {
    for (int64_t j = 0; j < args.n; ++j) {
      uint32_t sum = 0;
      for (int64_t k = 0; k < args.k; ++k)
        sum += uint32_t(int32_t(a[args.trans_a ? k * args.lda + i : i * args.lda + k])) *
               uint32_t(int32_t(b[args.trans_b ? j * args.ldb + k : k * args.ldb + j]));
      c[i * args.ldc + j] = T(sum);
    }
  });
}

bool floating(DType type) { return is_float(type); }

/**
 * dot_general(a, b) {lhs_batch, rhs_batch, lhs_contract, rhs_contract, epilogue?}: result axes are batch, free of a, free of b.
 * epilogue {bias, activation, gradient, residual, pre_activation, sum, total}: y = activation(a b + bias) + residual, or with gradient
 * y = (a b + bias) activation'(x) + residual, with bias (free of b), x and residual (as the result) as further inputs in that order. Further
 * outputs: with pre_activation a b + bias, with sum the sums of b over the contracted axes (free of b), with total those of y over the free
 * axes of a, before y is rounded (free of b).
 */
Kernel make_dot_general(Instruction& instruction) {
  const TensorType &a = instruction.input(0), &b = instruction.input(1), &y = instruction.output(0);
  if (a.rank() > kMaxRank || b.rank() > kMaxRank) instruction.wrong("too many dimensions");
  const auto lhs_batch = instruction.attribute("lhs_batch").integers(), rhs_batch = instruction.attribute("rhs_batch").integers();
  const auto lhs_contract = instruction.attribute("lhs_contract").integers(), rhs_contract = instruction.attribute("rhs_contract").integers();
  if (lhs_batch.size() != rhs_batch.size() || lhs_contract.size() != rhs_contract.size()) instruction.wrong("the axes do not pair up");
  if (floating(a.dtype) != floating(b.dtype) || floating(a.dtype) != floating(y.dtype) || (!floating(a.dtype) && (a.dtype != b.dtype || a.dtype != y.dtype)))
    instruction.wrong("the dtypes do not fit");

  Matrix left = plan_matrix(instruction, a, lhs_batch, lhs_contract, "left");
  Matrix right = plan_matrix(instruction, b, rhs_batch, rhs_contract, "right");
  for (size_t i = 0; i < lhs_contract.size(); ++i)
    if (a.dim(int(lhs_contract[i])) != b.dim(int(rhs_contract[i]))) instruction.wrong("the contracted sizes differ");
  for (size_t i = 0; i < lhs_batch.size(); ++i)
    if (a.dim(int(lhs_batch[i])) != b.dim(int(rhs_batch[i]))) instruction.wrong("the batch sizes differ");

  GemmArgs args;
  args.m = left.rows, args.n = right.rows, args.k = left.columns;
  args.lda = left.leading, args.trans_a = left.transposed;
  args.ldb = right.leading, args.trans_b = !right.transposed;
  args.ldc = std::max<int64_t>(args.n, 1);
  args.bf16_compute = instruction.bf16_matmul;
  std::vector<Axis> c_batch = left.batch;
  int64_t stride = args.m * args.n;
  for (size_t i = c_batch.size(); i-- > 0;) {
    c_batch[i].stride = stride;
    stride *= c_batch[i].size;
  }
  if (y.size != stride) instruction.wrong("the result's size does not fit its operands");
  const Batches batches(left.batch, right.batch, c_batch);
  args.batch = batches.count;
  args.stride_a = batches.stride_a, args.stride_b = batches.stride_b, args.stride_c = batches.stride_c;

  const Json& epilogue = (*instruction.attributes)["epilogue"];
  const bool bias = epilogue.boolean("bias", false), residual = epilogue.boolean("residual", false),
             pre_activation = epilogue.boolean("pre_activation", false), gradient = epilogue.boolean("gradient", false),
             sum = epilogue.boolean("sum", false), total = epilogue.boolean("total", false);
  args.epilogue.activation = parse_activation(instruction, epilogue);
  args.epilogue.ldr = args.ldc;
  const size_t bias_at = 2, gradient_at = 2u + bias, residual_at = gradient_at + gradient, sum_at = 1u + pre_activation, total_at = sum_at + sum;
  if (instruction.inputs.size() != 2u + bias + gradient + residual || instruction.outputs.size() != total_at + total)
    instruction.wrong("its inputs and outputs do not fit its epilogue");
  const bool has_epilogue = bias || residual || pre_activation || sum || total || args.epilogue.activation != Activation::none;
  if (has_epilogue && (!floating(y.dtype) || y.dtype == DType::f16)) instruction.wrong("an epilogue needs an f32 or bf16 result");
  if (bias && (instruction.input(bias_at).size != args.n || instruction.input(bias_at).dtype != DType::f32))
    instruction.wrong("the bias must be f32 with one number per column");
  if (residual && (instruction.input(residual_at).size != y.size || instruction.input(residual_at).dtype != DType::f32))
    instruction.wrong("the residual must be f32 of the result's shape");
  const auto f32_or_bf16 = [](const TensorType& x) { return x.dtype == DType::f32 || x.dtype == DType::bf16; };
  if (pre_activation && (instruction.output(1).size != y.size || !f32_or_bf16(instruction.output(1))))
    instruction.wrong("the value before the activation must be f32 or bf16 of the result's shape");
  if (gradient && (args.epilogue.activation == Activation::none || pre_activation || instruction.input(gradient_at).size != y.size ||
                   !f32_or_bf16(instruction.input(gradient_at))))
    instruction.wrong("the gradient needs an activation and the value before it, f32 or bf16 of the result's shape");
  if (sum && (batches.outer_count * batches.count != 1 || instruction.output(sum_at).size != args.n || instruction.output(sum_at).dtype != DType::f32))
    instruction.wrong("the sum must be f32 with one number per column of a product without batch axes");
  if (total && (batches.outer_count * batches.count != 1 || instruction.output(total_at).size != args.n || instruction.output(total_at).dtype != DType::f32))
    instruction.wrong("the total must be f32 with one number per column of a product without batch axes");
  const auto gemm_type = [](const TensorType& x) { return x.dtype == DType::bf16 ? Type::bf16 : Type::f32; };
  if (pre_activation) args.epilogue.pre_type = gemm_type(instruction.output(1));
  if (gradient) args.epilogue.gradient_type = gemm_type(instruction.input(gradient_at));
  const int64_t pre_item = args.epilogue.pre_type == Type::bf16 ? 2 : 4, gradient_item = args.epilogue.gradient_type == Type::bf16 ? 2 : 4;

  if (!floating(a.dtype)) {
    return [=](const Call& call) {
      with_storage(a.dtype, [&](auto zero) {
        using T = decltype(zero);
        auto bring = [&](const Matrix& m, void* in) {
          if (!m.copy) return static_cast<const T*>(in);
          m.copy->run(in, call.workspace + m.workspace);
          return reinterpret_cast<const T*>(call.workspace + m.workspace);
        };
        const T *left_data = bring(left, call.in[0]), *right_data = bring(right, call.in[1]);
        for (int64_t at = 0; at < batches.outer_count * batches.count; ++at) {
          int64_t rest = at / batches.count, oa = at % batches.count * batches.stride_a, ob = at % batches.count * batches.stride_b,
                  oc = at % batches.count * batches.stride_c;
          for (size_t i = batches.outer.size(); i-- > 0;) {
            const auto& axis = batches.outer[i];
            oa += rest % axis.size * axis.a, ob += rest % axis.size * axis.b, oc += rest % axis.size * axis.c;
            rest /= axis.size;
          }
          integer_matmul<T>(args, left_data + oa, right_data + ob, call.output<T>(0) + oc);
        }
      });
    };
  }

  // f16 operands and results pass through f32 in the workspace.
  int64_t converted_left = left.convert ? instruction.reserve(a.size * 4) : 0;
  int64_t converted_right = right.convert ? instruction.reserve(b.size * 4) : 0;
  const bool convert_result = y.dtype == DType::f16;
  const int64_t converted_result = convert_result ? instruction.reserve(y.size * 4) : 0;
  args.ta = left.type, args.tb = right.type;
  args.tc = y.dtype == DType::bf16 ? Type::bf16 : Type::f32;
  const int64_t a_item = args.ta == Type::bf16 ? 2 : 4, b_item = args.tb == Type::bf16 ? 2 : 4, c_item = args.tc == Type::bf16 ? 2 : 4;
  auto convert_plan = [](DType from, DType to, int64_t size) {
    EwRegion region;
    region.shape = {size};
    region.inputs.push_back({from, {1}});
    region.nodes.push_back({Ew::convert, to, {0, -1, -1}});
    region.outputs.push_back({1, EwReduce::none});
    return plan_elementwise(region);
  };
  const auto left_plan = left.convert ? convert_plan(DType::f16, DType::f32, a.size) : nullptr;
  const auto right_plan = right.convert ? convert_plan(DType::f16, DType::f32, b.size) : nullptr;
  const auto result_plan = convert_result ? convert_plan(DType::f32, DType::f16, y.size) : nullptr;

  return [=](const Call& call) {
    auto bring = [&](const Matrix& m, void* in, const std::shared_ptr<const EwPlan>& plan, int64_t converted) {
      if (m.copy) {
        m.copy->run(in, call.workspace + m.workspace);
        in = call.workspace + m.workspace;
      }
      if (!plan) return static_cast<const std::byte*>(in);
      void* out = call.workspace + converted;
      const void* from = in;
      run_elementwise({plan.get(), &from, &out});
      return static_cast<const std::byte*>(out);
    };
    const std::byte* left_data = bring(left, call.in[0], left_plan, converted_left);
    const std::byte* right_data = bring(right, call.in[1], right_plan, converted_right);
    std::byte* result = convert_result ? call.workspace + converted_result : call.output<std::byte>(0);
    GemmArgs g = args;
    if (bias) g.epilogue.bias = call.input<float>(bias_at);
    for (int64_t at = 0; at < batches.outer_count; ++at) {
      int64_t rest = at, oa = 0, ob = 0, oc = 0;
      for (size_t i = batches.outer.size(); i-- > 0;) {
        const auto& axis = batches.outer[i];
        oa += rest % axis.size * axis.a, ob += rest % axis.size * axis.b, oc += rest % axis.size * axis.c;
        rest /= axis.size;
      }
      g.a = left_data + oa * a_item;
      g.b = right_data + ob * b_item;
      g.c = result + oc * c_item;
      if (residual) g.epilogue.residual = call.input<float>(residual_at) + oc;
      if (pre_activation) g.epilogue.pre_activation = call.output<std::byte>(1) + oc * pre_item;
      if (gradient) g.epilogue.gradient_at = call.input<std::byte>(gradient_at) + oc * gradient_item;
      if (sum) g.b_sums = call.output<float>(sum_at);
      if (total) g.epilogue.result_sums = call.output<float>(total_at);
      gemm(g);
    }
    if (convert_result) {
      const void* from = result;
      run_elementwise({result_plan.get(), &from, call.out});
    }
  };
}

}  // namespace

std::vector<KernelEntry> matmul_kernels() { return {{"dot_general", make_dot_general}}; }

}  // namespace howdah
