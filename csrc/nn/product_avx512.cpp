#include <algorithm>
#include <cstdint>
#include <utility>

#include "core/platform.hpp"
#include "nn/product_levels.hpp"

#if PYRL_X86
PYRL_BEGIN_TARGET_AVX512

#define PYRL_NN_LEVEL avx512
#define PYRL_NN_VECTOR 64
#define PYRL_NN_REGISTERS 32
#include "nn/product_kernel.inl"

PYRL_END_TARGET
#endif
