// Matrix multiplication: the interface that does not depend on the processor. Sizes and strides count elements.
#pragma once

#include <cstdint>

namespace howdah {

enum class Type : uint8_t { f32, bf16 };

enum class Activation : uint8_t { none, gelu_tanh, gelu_erf, silu, relu };

/**
 * What happens to the finished sum s = alpha * A B + beta * C: y = activation(s + bias) + residual, or with `gradient_at`
 * y = (s + bias) * activation'(gradient_at) + residual.
 */
struct GemmEpilogue {
  const float* bias = nullptr;       // (n), or null
  Activation activation = Activation::none;
  void* pre_activation = nullptr;    // (m, n) with C's ldc and stride_c: s + bias is stored here too, or null
  Type pre_type = Type::f32;
  const void* gradient_at = nullptr; // (m, n) with C's ldc and stride_c, or null; then there is an activation and no pre_activation
  Type gradient_type = Type::f32;
  const float* residual = nullptr;   // (m, n) with leading dimension ldr and C's batch stride; may be C itself; or null
  int64_t ldr = 0;
  /** (n), or null: receives the sums of the result's columns, in f32 and before it is rounded. Only with batch 1. */
  float* result_sums = nullptr;
  bool any() const { return bias || activation != Activation::none || pre_activation || residual || result_sums; }
};

/**
 * C[i] = epilogue(alpha * op(A[i]) op(B[i]) + beta * C[i]) for i < batch; row-major, op(A) is m x k and op(B) is k x n.
 * Sums are in f32, in an order that depends on the shape and types alone. C must not overlap A or B. k = 0 counts as a
 * product of zeros. With beta = 0, C is not read, so it may hold anything.
 */
struct GemmArgs {
  int64_t batch = 1, m = 0, n = 0, k = 0;
  const void* a = nullptr;
  Type ta = Type::f32;
  int64_t lda = 0;
  bool trans_a = false; // stored k x m
  int64_t stride_a = 0; // from one batch to the next; 0: the same matrix
  const void* b = nullptr;
  Type tb = Type::f32;
  int64_t ldb = 0;
  bool trans_b = false; // stored n x k
  int64_t stride_b = 0;
  void* c = nullptr;
  Type tc = Type::f32;
  int64_t ldc = 0, stride_c = 0;
  float alpha = 1;
  float beta = 0; // 0 or 1
  /** Round operands to bf16 and multiply those; only where has_bf16_dot(), else products are in f32. */
  bool bf16_compute = false;
  GemmEpilogue epilogue;
  /** (n), or null: receives the sums of op(B)'s columns, in f32, of B as it is stored. Only with batch 1. */
  float* b_sums = nullptr;
};

/** On the whole pool (or inline when called from a task). */
void gemm(const GemmArgs& args);

/** On the calling thread alone: for use inside a task. The same bits as `gemm`. */
void gemm_inline(const GemmArgs& args);

/** What src/kernels/gemm.cpp offers, compiled for one instruction set. */
struct GemmTable {
  void (*gemm)(const GemmArgs&);
  void (*gemm_inline)(const GemmArgs&);
};

} // namespace howdah
