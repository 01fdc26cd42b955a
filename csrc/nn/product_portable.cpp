#include <algorithm>
#include <cstdint>
#include <utility>

#include "core/platform.hpp"
#include "nn/product_levels.hpp"

#define PYRL_NN_LEVEL portable
#define PYRL_NN_VECTOR 16
#define PYRL_NN_REGISTERS 16
#include "nn/product_kernel.inl"
