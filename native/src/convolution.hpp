// Two-dimensional convolution with channels last: the interface that does not depend on the processor. Sizes and strides count elements.
//
// Neither kernel makes columns of the input in memory. A task copies the rows of the input that it needs once, with their padding and in the type
// that is multiplied, into scratch that stays in the second-level cache, and slides over that.
#pragma once

#include <cstdint>

namespace howdah {

/** One spatial axis; position i * stride + tap - low of the input lies under a tap, with `dilation - 1` zeros between neighbours. */
struct WindowAxis {
  int64_t input = 1, output = 1, window = 1, stride = 1, low = 0, dilation = 1;
};

/** Numbers in memory, f32 or bf16. */
struct Numbers {
  const void* data = nullptr;
  bool half = false;
};

/** y[n, i, j, f] = sum over taps and channels of x[n, position(i, tap), ..., c] w[f, c, tap]. Channels of x and y are contiguous. */
struct DirectConvolutionArgs {
  int64_t batch = 0, channels = 0, features = 0;
  WindowAxis height, width;
  Numbers x;
  int64_t x_batch = 0, x_row = 0, x_column = 0;
  const float* w = nullptr;
  int64_t w_feature = 0, w_channel = 0, w_row = 0, w_column = 0;
  void* y = nullptr;
  bool y_half = false; // bf16
  int64_t y_batch = 0, y_row = 0, y_column = 0;
  /** Round operands to bf16 and multiply those, where the processor does. */
  bool bf16_compute = false;
};

/**
 * dw[f, c, tap] = sum over images and places of x[n, place * stride + tap - low, c] g[n, place, f]: the gradient of the kernel. Axes as in the forward
 * pass (output: places, window: taps), no dilation. Images are summed in fixed parts, joined in order.
 */
struct KernelGradientArgs {
  int64_t batch = 0, channels = 0, features = 0;
  WindowAxis height, width;
  Numbers x, g;
  int64_t x_batch = 0, x_row = 0, x_column = 0;
  int64_t g_batch = 0, g_row = 0, g_column = 0;
  float* dw = nullptr;
  int64_t w_feature = 0, w_channel = 0, w_row = 0, w_column = 0;
  bool bf16_compute = false;
};

void direct_convolution(const DirectConvolutionArgs& args);
void kernel_gradient(const KernelGradientArgs& args);

/** The same kernels as compiled for one instruction set. */
struct ConvolutionTable {
  void (*direct_convolution)(const DirectConvolutionArgs&);
};
struct KernelGradientTable {
  void (*kernel_gradient)(const KernelGradientArgs&);
};

} // namespace howdah
