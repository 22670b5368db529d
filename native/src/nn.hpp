// Fused neural-network kernels and the element-wise tile machine: the interface that does not depend on the processor.
//
// Every kernel takes one struct of arguments. Tensors are f32, row-major and contiguous unless a comment says otherwise;
// sizes and strides count elements. Kernels use the whole thread pool and give the same bits for any number of threads,
// because work is cut by shape alone and partial results are combined in a fixed order.
//
// Shapes below: N rows, C channels, V vocabulary, B batch, T time, H query heads, G key/value heads, D head width.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace howdah {

// ---------------------------------------------------------------------------------------------------------------------
// Element-wise regions

/** Element types as they lie in memory; `boolean` is one byte, 0 or 1. */
enum class DType : uint8_t { f32, bf16, f16, i32, u8, i8, boolean };

constexpr int64_t bytes_of(DType type) {
  return type == DType::f32 || type == DType::i32 ? 4 : type == DType::bf16 || type == DType::f16 ? 2 : 1;
}

constexpr bool is_float(DType type) { return type == DType::f32 || type == DType::bf16 || type == DType::f16; }

/**
 * What one node of a region computes. Names are StableHLO's. Operands of a binary op have one type, which is the node's
 * type too; compare gives `boolean`; select is (predicate, on_true, on_false); clamp is (min, x, max).
 */
enum class Ew : uint8_t {
  // One operand.
  negate,
  abs,
  sign,
  exponential,
  exponential_minus_one,
  log,
  log_plus_one,
  sqrt,
  rsqrt,
  sine,
  cosine,
  tanh,
  logistic,
  erf,
  floor,
  ceil,
  round_nearest_even,
  is_finite,
  logical_not, // `not`: bitwise on integers, logical on booleans
  convert,
  bitcast_convert, // f32 <-> i32 only
  gelu,            // x * Phi(x), by erf
  gelu_tanh,       // the tanh approximation of Hendrycks and Gimpel (2016)
  silu,            // x * logistic(x)
  // Two operands.
  add,
  subtract,
  multiply,
  divide,
  maximum,
  minimum,
  power,
  remainder,
  atan2,
  bit_and,
  bit_or,
  bit_xor,
  shift_left,
  shift_right_logical,
  shift_right_arithmetic,
  compare_eq,
  compare_ne,
  compare_lt,
  compare_le,
  compare_gt,
  compare_ge,
  gelu_grad,      // (dy, x) -> dy * d gelu(x)/dx
  gelu_tanh_grad, // (dy, x)
  silu_grad,      // (dy, x)
  // Three operands.
  select,
  clamp,
  // No operand.
  constant,    // `number`
  iota,        // index along `axis` of the region's shape
  random_bits, // Philox4x32-10 word of the element's linear index; operand 0 must be an input of two i32 (the key)
};

/** The op of that StableHLO or composite name (`add`, `not`, `and`, `compare_lt`, `gelu_tanh_grad`, ...), or -1. */
int elementwise_op(const char* name);

/**
 * One node. Operands are value ids: ids below the number of inputs are the inputs, then come the nodes in order.
 * A node of type bf16 or f16 is computed in f32 and rounded once.
 */
struct EwNode {
  Ew op;
  DType type;
  int32_t operand[3] = {-1, -1, -1};
  double number = 0;
  int32_t axis = 0;
};

/** An input seen through the region's shape: one stride per dimension in elements, 0 where it is broadcast. */
struct EwInput {
  DType type;
  std::vector<int64_t> strides;
};

enum class EwReduce : uint8_t { none, add, maximum, minimum };

/** A result of the region: contiguous, of the region's shape, or of the kept dimensions when it is reduced. */
struct EwOutput {
  int32_t value;
  EwReduce reduce = EwReduce::none;
};

/**
 * A region of element-wise ops over one index space. If an output is reduced, the reduced dimensions are the last
 * `reduce_dims` ones, or the first `reduce_dims` ones when `reduce_leading`; all reduced outputs share them.
 */
struct EwRegion {
  std::vector<int64_t> shape;
  std::vector<EwInput> inputs;
  std::vector<EwNode> nodes;
  std::vector<EwOutput> outputs;
  int reduce_dims = 0;
  bool reduce_leading = false;
};

/** A region made ready to run: dimensions merged, registers assigned. Immutable, so any number of runs may share it. */
class EwPlan;

/** Throws std::invalid_argument when the region is malformed (operand out of range, unsupported type for an op). */
std::shared_ptr<const EwPlan> plan_elementwise(const EwRegion& region);

/** An output may be the very buffer of an input of the same type that is not broadcast. */
struct EwRunArgs {
  const EwPlan* plan;
  const void* const* inputs;
  void* const* outputs;
};

// ---------------------------------------------------------------------------------------------------------------------
// Softmax over the last axis: (rows, columns)

struct SoftmaxArgs {
  int64_t rows, columns;
  const float* x;
  float* y; // may be x
};

struct SoftmaxGradArgs {
  int64_t rows, columns;
  const float* y;  // the forward result (softmax or log_softmax)
  const float* dy;
  float* dx; // may be dy
};

// ---------------------------------------------------------------------------------------------------------------------
// Normalisation over the last axis: x is (rows, columns)

struct LayerNormArgs {
  int64_t rows, columns;
  const float* x;
  const float* scale; // (columns) or null
  const float* bias;  // (columns) or null
  float epsilon;
  void* y;     // may be x when it is f32
  float* mean; // (rows) or null
  float* rstd; // (rows) or null: 1 / sqrt(variance + epsilon)
  DType y_type = DType::f32; // or bf16, rounded once
};

struct LayerNormGradArgs {
  int64_t rows, columns;
  const float* dy;
  const float* x;
  const float* scale; // or null
  const float* mean;  // (rows)
  const float* rstd;  // (rows)
  float* dx;          // may be dy; or null
  float* dscale;      // (columns) or null
  float* dbias;       // (columns) or null
};

struct RmsNormArgs {
  int64_t rows, columns;
  const float* x;
  const float* scale; // (columns) or null
  float epsilon;
  void* y;     // may be x when it is f32
  float* rstd; // (rows) or null: 1 / sqrt(mean(x^2) + epsilon)
  DType y_type = DType::f32; // or bf16, rounded once
};

struct RmsNormGradArgs {
  int64_t rows, columns;
  const float* dy;
  const float* x;
  const float* scale; // or null
  const float* rstd;
  float* dx;     // may be dy; or null
  float* dscale; // or null
};

// ---------------------------------------------------------------------------------------------------------------------
// Batch normalisation in training: x is (rows, columns), a column is a channel

/** A matrix in memory, f32 or bf16. */
struct Matrix {
  const void* data;
  bool half; // bf16
};
struct MutableMatrix {
  void* data;
  bool half;
};

/** y = (x - mean) / sqrt(variance + epsilon) * scale + bias + residual, not below 0 with `relu`. */
struct BatchNormArgs {
  int64_t rows, columns;
  Matrix x;
  const float* scale;    // (columns)
  const float* bias;     // (columns)
  Matrix residual;       // (rows, columns) or null
  float epsilon;
  bool relu;
  MutableMatrix y;       // may be x or the residual, of the same type
  float* mean;           // (columns)
  float* variance;       // (columns): the mean of squared distances
};

struct BatchNormGradArgs {
  int64_t rows, columns;
  Matrix dy;
  Matrix x;
  const float* scale;
  const float* mean;
  const float* variance;
  Matrix y; // the forward result, where it was rectified; else null
  float epsilon;
  MutableMatrix dx; // may be x, of the same type
  float* dscale;    // (columns)
  float* dbias;     // (columns)
  float* dresidual; // (rows, columns) or null; may be dy
};

// ---------------------------------------------------------------------------------------------------------------------
// Long short-term memory over a sequence

/**
 * Gates i, f, g, o = act(x + W h of the step before), i, f, o by the logistic function, g by tanh; c = f c + i g; h = o tanh(c).
 * T steps of B rows of H units.
 */
struct LstmArgs {
  int64_t time, batch, hidden;
  const float* x;      // (T, B, 4 H): what the input gives the gates, biases included
  const float* weight; // (4 H, H)
  const float* h0;     // (B, H)
  const float* c0;     // (B, H)
  bool bf16_compute;
  float* h;     // (T, B, H)
  float* c;     // (T, B, H)
  float* gates; // (T, B, 4 H), after their activations; may be x
};

struct LstmGradArgs {
  int64_t time, batch, hidden;
  const float* dh; // (T, B, H) or null
  const float* dc; // (T, B, H) or null
  const float* weight;
  const float* c0;
  const float* c;
  const float* gates;
  bool bf16_compute;
  float* dx;  // (T, B, 4 H); may be gates
  float* dh0; // (B, H)
  float* dc0; // (B, H)
};

// ---------------------------------------------------------------------------------------------------------------------
// Rotary positions (Su et al. 2021)

/**
 * Rotates the first `rotated` of the last axis. Half-split pairs (i, i + rotated/2) as in Llama on Hugging Face, or
 * neighbours (2i, 2i+1) when `interleaved`. `inverse` turns back, which is the gradient.
 */
struct RotaryArgs {
  int64_t batch, time, heads, width, rotated;
  const float* x; // (batch, time, heads, width)
  int64_t x_batch, x_time, x_head; // strides
  const float* cosine; // (1 or batch, time, rotated/2)
  const float* sine;
  int64_t angle_batch; // stride of cosine and sine per batch: 0 when shared
  bool interleaved, inverse;
  float* y; // same strides' layout as given below; may be x
  int64_t y_batch, y_time, y_head;
};

// ---------------------------------------------------------------------------------------------------------------------
// Attention

/**
 * A (batch, time, heads, width) operand with the last axis contiguous; the other strides are free. Only q, k, v and out may be bf16: q, k and v
 * where the products are in bf16 (bf16_compute on a processor that has them, more than two queries).
 */
struct HeadTensor {
  float* data = nullptr;
  int64_t batch = 0, time = 0, head = 0; // strides, in elements
  bool bf16 = false;                     // `data` holds bf16
};

/**
 * Scaled dot-product attention without the Tq x Tk matrix (Dao et al. 2022). Query i of batch b sees the keys
 * first[b,i] <= j < end[b,i]. Without `end`, the end is i + 1 + (keys - queries) when causal, else `keys`. Without `first`
 * it is 0. With slopes (ALiBi, Press et al. 2021) the score gets -slope[h] * (end - 1 - j). A row that sees nothing gives 0 and lse = -inf.
 * Dropout of probabilities: kept where the Philox word of ((b*H + h)*Tq + i)*Tk + j, as a number in [0,1), is >= rate.
 */
struct AttentionArgs {
  int64_t batch, queries, keys, heads, groups, width, value_width; // heads is a multiple of groups
  HeadTensor q, k, v;                // q: heads; k, v: groups; not written
  const int32_t* first = nullptr;    // (batch, queries) or null
  const int32_t* end = nullptr;      // (batch, queries) or null
  const float* slopes = nullptr;     // (heads) or null
  const int32_t* dropout_key = nullptr; // two words, or null: no dropout
  float dropout = 0;
  float scale = 1;
  bool causal = false;
  bool bf16_compute = false; // multiply in bf16 where the processor does; f32 otherwise
  HeadTensor out;            // (batch, queries, heads, value_width)
  float* lse = nullptr;      // (batch, heads, queries) or null: log of the sum of exp(score)
};

struct AttentionGradArgs {
  AttentionArgs forward; // as given to the forward pass: q, k, v, out and lse are read here
  HeadTensor dout;
  HeadTensor dq, dk, dv; // written in full
};

// ---------------------------------------------------------------------------------------------------------------------
// Losses

/** loss[n] = lse[n] - logits[n, target[n]]; a negative target is ignored: loss and lse 0, no gradient. All are below `classes`. */
struct CrossEntropyArgs {
  int64_t rows, classes;
  const float* logits;
  const int32_t* targets;
  float* loss; // (rows)
  float* lse;  // (rows) or null
};

struct CrossEntropyGradArgs {
  int64_t rows, classes;
  const float* logits;
  const int32_t* targets;
  const float* lse;
  const float* dloss; // (rows)
  float* dlogits;     // may be logits
};

/** Classes from which on a gradient with bf16 products never has the f32 logits of a chunk as a whole. */
constexpr int64_t kLogitsByBlocks = 4096;

/** Most rows whose logits exist at one time. */
inline int64_t logit_rows(int64_t rows, int64_t classes, bool by_blocks) {
  // Logits of 8 MB stay in the outer cache, but too few rows make slow matrix products.
  const int64_t fitting = (int64_t{8} << 20) / 4 / std::max<int64_t>(16, (classes + 15) / 16 * 16) / 64 * 64;
  return std::min<int64_t>(by_blocks ? 512 : std::max<int64_t>(fitting, 256), std::max<int64_t>(1, rows));
}

/** Bytes that the logits of so many rows take, as f32 or, by blocks, as bf16. */
inline int64_t logit_bytes(int64_t rows, int64_t classes, bool by_blocks) {
  return logit_rows(rows, classes, by_blocks) * ((classes + 15) / 16 * 16) * (by_blocks ? 2 : 4);
}

/** Cross-entropy of logits = h w^T, computed by chunks of rows so that the logits never exist as a whole. */
struct LinearCrossEntropyArgs {
  int64_t rows, channels, classes;
  const float* h; // (rows, channels)
  const float* w; // (classes, channels)
  const int32_t* targets;
  bool bf16_compute = false;
  float* loss; // (rows)
  float* lse;  // (rows) or null
  float* logits; // logit_bytes(rows, classes, false)
};

struct LinearCrossEntropyGradArgs {
  int64_t rows, channels, classes;
  const float* h;
  const float* w;
  const int32_t* targets;
  const float* lse;   // from the forward pass; null: computed here, and loss is written too (value and gradient at once)
  const float* dloss; // (rows)
  bool bf16_compute = false;
  float* dh;             // (rows, channels) or null
  float* dw;             // (classes, channels) or null
  float* loss = nullptr; // (rows), written when lse is null
  float* lse_out = nullptr; // (rows) or null, written when lse is null
  float* logits = nullptr; // logit_bytes(rows, classes, by_blocks())

  bool by_blocks() const { return bf16_compute && classes >= kLogitsByBlocks; }
};

// ---------------------------------------------------------------------------------------------------------------------
// Embedding

/** An id outside [0, classes) is clamped as StableHLO's gather does. */
struct EmbeddingArgs {
  int64_t rows, channels, classes;
  const float* table; // (classes, channels)
  const int32_t* ids; // (rows)
  float* y;           // (rows, channels)
};

/** dtable = base + the sum by id of rows of dy, in ascending order; ids outside [0, classes) are skipped. */
struct EmbeddingGradArgs {
  int64_t rows, channels, classes;
  const float* dy;
  const int32_t* ids;
  void* dtable;               // (classes, channels), written in full
  const void* base = nullptr; // of dtable's type; may be dtable; null: zeros
  DType type = DType::f32;    // of dtable and base, or bf16: sums are in f32, rounded once
};

// ---------------------------------------------------------------------------------------------------------------------
// Optimizer

struct AdamWTensor {
  float* p;
  float* m;
  float* v;
  const void* g;
  int64_t size;
  bool decay;
  /** Where the results go; null: in place. */
  float* p_out = nullptr;
  float* m_out = nullptr;
  float* v_out = nullptr;
  DType g_type = DType::f32; // or bf16
};

/**
 * AdamW (Loshchilov and Hutter 2019) over many tensors in one pass:
 * m = b1 m + (1-b1) g s; v = b2 v + (1-b2) (g s)^2; p -= lr ((m/c1) / (sqrt(v/c2) + epsilon) + wd p), with s the
 * gradient scale and c = 1 - b^step.
 */
struct AdamWArgs {
  const AdamWTensor* tensors;
  int64_t count;
  float learning_rate;
  float gradient_scale; // 1, or the clipping factor
  float correction1, correction2; // c1 and c2
  double beta1, beta2, epsilon, weight_decay; // f64, since 1 - beta2 loses bits in f32
};

/** *out = sqrt(sum of squares of all tensors), summed in f64 over fixed blocks. */
struct GlobalNormArgs {
  const void* const* tensors;
  const int64_t* sizes;
  int64_t count;
  float* out;
  const DType* types = nullptr; // f32 or bf16 each; null: all are f32
};

// ---------------------------------------------------------------------------------------------------------------------
// Search over the last axis

/** The k largest of each row in descending order; equal values keep the lower index first; NaN counts as the smallest. */
struct TopKArgs {
  int64_t rows, columns, k;
  const float* x;
  float* values;    // (rows, k) or null
  int32_t* indices; // (rows, k) or null
};

// Every kernel above: X(function, argument struct).
#define HOWDAH_NN_KERNELS(X)                                    \
  X(run_elementwise, EwRunArgs)                                 \
  X(softmax, SoftmaxArgs)                                       \
  X(softmax_grad, SoftmaxGradArgs)                              \
  X(log_softmax, SoftmaxArgs)                                   \
  X(log_softmax_grad, SoftmaxGradArgs)                          \
  X(layer_norm, LayerNormArgs)                                  \
  X(layer_norm_grad, LayerNormGradArgs)                         \
  X(rms_norm, RmsNormArgs)                                      \
  X(rms_norm_grad, RmsNormGradArgs)                             \
  X(batch_norm, BatchNormArgs)                                  \
  X(batch_norm_grad, BatchNormGradArgs)                         \
  X(lstm, LstmArgs)                                             \
  X(lstm_grad, LstmGradArgs)                                    \
  X(rotary, RotaryArgs)                                         \
  X(attention, AttentionArgs)                                   \
  X(attention_grad, AttentionGradArgs)                          \
  X(cross_entropy, CrossEntropyArgs)                            \
  X(cross_entropy_grad, CrossEntropyGradArgs)                   \
  X(linear_cross_entropy, LinearCrossEntropyArgs)               \
  X(linear_cross_entropy_grad, LinearCrossEntropyGradArgs)      \
  X(embedding, EmbeddingArgs)                                   \
  X(embedding_grad, EmbeddingGradArgs)                          \
  X(adamw, AdamWArgs)                                           \
  X(global_norm, GlobalNormArgs)                                \
  X(top_k, TopKArgs)

// void softmax(const SoftmaxArgs&); and so on: each calls the kernel compiled for this processor.
#define HOWDAH_DECLARE(name, Args) void name(const Args& args);
HOWDAH_NN_KERNELS(HOWDAH_DECLARE)
#undef HOWDAH_DECLARE

/** The same kernels as compiled for one instruction set. */
struct NnTable {
#define HOWDAH_MEMBER(name, Args) void (*name)(const Args&);
  HOWDAH_NN_KERNELS(HOWDAH_MEMBER)
#undef HOWDAH_MEMBER
};

} // namespace howdah
