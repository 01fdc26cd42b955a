// The product with A and B rounded to bfloat16 and summed in float32, by the tiles of Intel's AMX (processors from Sapphire Rapids on).
//
// Blocks of 32 x 32 of C stay in tile registers over the whole sum; which rows are computed together changes nothing. Beside the product's
// own cost A and B are rounded and packed at each call: M P + P N numbers. Denormal numbers count as zero.
#pragma once

#include "nn/product.hpp"

namespace pyrl::nn::bfloat16 {

// Whether this processor and system have it, and the SIMD level in use is the widest.
bool available();

// Whether rounding and packing are worth it: from 32 rows, columns and steps on.
constexpr bool pays(const Product<float>& p) { return p.rows >= 32 && p.columns >= 32 && p.depth >= 32; }

// Of all rows of `product`, on this thread. Only where `available()`.
void multiply(const Product<float>& product);

}  // namespace pyrl::nn::bfloat16
