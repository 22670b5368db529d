#include "convolution.hpp"

#include "isa.hpp"

HOWDAH_DECLARE_TABLE(ConvolutionTable, convolution_table)
HOWDAH_DECLARE_TABLE(KernelGradientTable, kernel_gradient_table)

namespace howdah {

void direct_convolution(const DirectConvolutionArgs& args) {
  static const ConvolutionTable& table = HOWDAH_TABLE(convolution_table);
  table.direct_convolution(args);
}

void kernel_gradient(const KernelGradientArgs& args) {
  static const KernelGradientTable& table = HOWDAH_TABLE(kernel_gradient_table);
  table.kernel_gradient(args);
}

} // namespace howdah
