#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "json.hpp"
#include "memory.hpp"
#include "nn.hpp"

namespace howdah {

/** The largest rank any kernel handles. */
constexpr int kMaxRank = 8;

using Shape = std::vector<int64_t>;

/** Element type and static shape of a value; row-major and contiguous. */
struct TensorType {
  DType dtype;
  Shape shape;
  int64_t size;   // elements
  int64_t bytes;

  int rank() const { return int(shape.size()); }
  int64_t dim(int axis) const { return shape[size_t(axis)]; }
};

DType parse_dtype(const std::string& name);
const char* dtype_name(DType type);
/** "f32 (2, 3)", for messages. */
std::string describe(const TensorType& type);
/** Strides in elements of a row-major tensor. */
Shape strides_of(const Shape& shape);

/** What a kernel gets when it runs. */
struct Call {
  void* const* in;
  void* const* out;
  std::byte* workspace;

  template <class T>
  const T* input(size_t i) const {
    return static_cast<const T*>(in[i]);
  }
  template <class T>
  T* output(size_t i) const {
    return static_cast<T*>(out[i]);
  }
};

/** One instruction made ready to run: shapes and attributes are decoded and captured. Called on the executor thread only. */
using Kernel = std::function<void(const Call&)>;

class Executable;

/** What the maker of a kernel knows of its instruction. */
struct Instruction {
  std::string op;
  std::string scope;
  std::vector<TensorType> inputs, outputs;
  const Json* attributes = nullptr;
  /** Matmul operands are rounded to bf16. */
  bool bf16_matmul = false;
  /** Bodies of loops. */
  std::vector<std::shared_ptr<Executable>> programs;

  /** Reserves 64-byte aligned workspace that lives during the call; returns its offset from `Call::workspace`. */
  int64_t reserve(int64_t bytes) {
    const int64_t offset = workspace_bytes;
    workspace_bytes += (bytes + 63) & ~int64_t{63};
    return offset;
  }
  int64_t workspace_bytes = 0;

  const TensorType& input(size_t i) const;
  const TensorType& output(size_t i) const;
  const Json& attribute(const char* name) const { return attributes->at(name); }
  /** Fails with a message naming the op, its scope and its types. */
  [[noreturn]] void wrong(const std::string& what) const;
};

using KernelMaker = Kernel (*)(Instruction&);
/** The maker for an op of that name, or null. */
KernelMaker find_kernel(const std::string& op);

enum class Combine : uint8_t;
/** "add", "multiply", "maximum", "minimum", "and", "or" or "set". */
Combine parse_combine(const Instruction& instruction, const std::string& name);

/** Makers by name; each ops_*.cpp lists its own. */
struct KernelEntry {
  const char* name;
  KernelMaker make;
};
std::vector<KernelEntry> data_kernels();
std::vector<KernelEntry> elementwise_kernels();
std::vector<KernelEntry> reduce_kernels();
std::vector<KernelEntry> window_kernels();
std::vector<KernelEntry> index_kernels();
std::vector<KernelEntry> matmul_kernels();
std::vector<KernelEntry> convolution_kernels();
std::vector<KernelEntry> nn_kernels();
std::vector<KernelEntry> layer_kernels();
std::vector<KernelEntry> paged_kernels();
std::vector<KernelEntry> loop_kernels();
std::vector<KernelEntry> quantized_kernels();
std::vector<KernelEntry> sample_kernels();

}  // namespace howdah
