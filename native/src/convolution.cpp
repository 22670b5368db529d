#include "convolution.hpp"

#include "isa.hpp"

HOWDAH_DECLARE_TABLE(ConvolutionTable, convolution_table)

namespace howdah {

static const ConvolutionTable& table() {
  static const ConvolutionTable& chosen = HOWDAH_TABLE(convolution_table);
  return chosen;
}

void direct_convolution(const DirectConvolutionArgs& args) { table().direct_convolution(args); }
void kernel_gradient(const KernelGradientArgs& args) { table().kernel_gradient(args); }

} // namespace howdah
