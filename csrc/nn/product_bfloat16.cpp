#include "nn/product_bfloat16.hpp"

#include <algorithm>
#include <cstdint>

#include "core/platform.hpp"
#include "nn/product_levels.hpp"
#include "nn/workspace.hpp"

#if PYRL_X86 && defined(__x86_64__) && defined(__linux__) && ((defined(__clang__) && __clang_major__ >= 16) || (!defined(__clang__) && __GNUC__ >= 12))
#define PYRL_AMX 1
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define PYRL_TARGET_AMX __attribute__((target("avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,amx-tile,amx-bf16")))
#else
#define PYRL_AMX 0
#endif

namespace pyrl::nn::bfloat16 {

#if PYRL_AMX
namespace {

constexpr std::int64_t block = 32;  // rows and columns of C, and steps of the sum: two tiles each way

constexpr std::int64_t padded(std::int64_t n) { return (n + block - 1) / block * block; }

// The instructions, and the system's leave to use the tiles' 8 KiB of registers.
bool supported() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d >> 22 & 1) == 0 || (d >> 24 & 1) == 0) return false;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) == 0 || (a >> 5 & 1) == 0) return false;
  constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

PYRL_TARGET_AMX inline __mmask16 first_lanes(std::int64_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xFFFF : count <= 0 ? 0 : (1 << count) - 1);
}

// Packed numbers are pairs of steps (2 k, 2 k + 1), 32 bits each, in memory for floats of the same size, padded with zeros.
// to[i, k] of a matrix whose rows run along the sum.
PYRL_TARGET_AMX void pack_along(const float* from, std::int64_t from_row, std::int64_t rows, std::int64_t depth, float* to) {
  const std::int64_t pairs = padded(depth) / 2;
  for (std::int64_t i = 0; i < padded(rows); ++i)
    for (std::int64_t p = 0; p < 2 * pairs; p += 32) {
      const float* const at = from + i * from_row + p;
      const std::int64_t rest = i < rows ? depth - p : 0;
      const __m512 low = _mm512_maskz_loadu_ps(first_lanes(rest), at), high = _mm512_maskz_loadu_ps(first_lanes(rest - 16), at + 16);
      _mm512_storeu_si512(to + i * pairs + p / 2, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

// to[k, j] of a matrix whose rows are the steps of the sum.
PYRL_TARGET_AMX void pack_across(const float* from, std::int64_t from_row, std::int64_t columns, std::int64_t depth, float* to) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const std::int64_t width = padded(columns);
  for (std::int64_t p = 0; p < padded(depth); p += 2)
    for (std::int64_t j = 0; j < width; j += 16) {
      const float* const at = from + p * from_row + j;
      const __mmask16 lanes = first_lanes(columns - j);
      const __m512 even = _mm512_maskz_loadu_ps(p < depth ? lanes : 0, at), odd = _mm512_maskz_loadu_ps(p + 1 < depth ? lanes : 0, at + from_row);
      _mm512_storeu_si512(to + p / 2 * width + j, _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd, even)));
    }
}

struct alignas(64) TileShapes {
  std::uint8_t palette = 1, start_row = 0, unused[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// c [32, 32] = sum over the pairs of a [32, pairs] and b [pairs, 32].
PYRL_TARGET_AMX void multiply_block(const float* a, const float* b, std::int64_t pairs, float* c) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const std::int64_t a_row = pairs * 4, b_row = block * 4;
  for (std::int64_t k = 0; k < pairs; k += 16) {
    _tile_loadd(4, a + k, a_row);
    _tile_loadd(5, a + k + 16 * pairs, a_row);
    _tile_loadd(6, b + k * block, b_row);
    _tile_loadd(7, b + k * block + 16, b_row);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, b_row);
  _tile_stored(1, c + 16, b_row);
  _tile_stored(2, c + 16 * block, b_row);
  _tile_stored(3, c + 16 * block + 16, b_row);
}

// Columns [0, 16) of a row of C from the sum: init, finish, store.
PYRL_TARGET_AMX inline void put(const Product<float>& p, __m512 sum, std::int64_t row, std::int64_t column) {
  const __mmask16 lanes = first_lanes(p.columns - column);
  const std::int64_t at = row * p.c_row + column;
  const __m512 zero = _mm512_setzero_ps();
  if (p.init != nullptr) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, p.init + column));
  switch (p.finish) {
    case Finish::None: break;
    case Finish::Relu: sum = _mm512_mask_mov_ps(sum, _mm512_cmp_ps_mask(sum, zero, _CMP_LT_OQ), zero); break;
    case Finish::ReluGate: {
      const __m512 seen = _mm512_maskz_loadu_ps(lanes, p.seen + at);
      sum = _mm512_mask_mov_ps(sum, _mm512_cmp_ps_mask(seen, zero, _CMP_LE_OQ), zero);
      break;
    }
    case Finish::TanhGate: {
      const __m512 seen = _mm512_maskz_loadu_ps(lanes, p.seen + at);
      sum = _mm512_fnmadd_ps(sum, _mm512_mul_ps(seen, seen), sum);
      break;
    }
  }
  _mm512_mask_storeu_ps(p.c + at, lanes, sum);
}

}  // namespace

bool available() {
  static const bool has = supported();
  return has && simd::level() == simd::Level::Avx512;
}

PYRL_TARGET_AMX void multiply(const Product<float>& p) {
  thread_local Workspace<float> packed_a, packed_b, turned;
  const std::int64_t pairs = padded(p.depth) / 2, rows = padded(p.rows);
  float *const a = packed_a.reserve(rows * pairs), *const b = packed_b.reserve(block * pairs);
  float* const other = turned.reserve(std::max(rows, block) * pairs);
  if (p.a_step == 1) {
    pack_along(p.a, p.a_row, p.rows, p.depth, a);
  } else {  // a[i, p] = a[i + p * a_step]
    pack_across(p.a, p.a_step, p.rows, p.depth, other);
    avx512::transpose(other, rows, pairs, rows, a, pairs);
  }
  alignas(64) float c[block * block];
  const TileShapes shapes;
  _tile_loadconfig(&shapes);
  for (std::int64_t column = 0; column < p.columns; column += block) {
    const std::int64_t width = std::min(block, p.columns - column);
    if (p.b_transposed) {
      pack_along(p.b + column * p.b_row, p.b_row, width, p.depth, other);
      avx512::transpose(other, pairs, block, pairs, b, block);
    } else {
      pack_across(p.b + column, p.b_row, width, p.depth, b);
    }
    asm volatile("" ::: "memory");  // the tiles' loads do not tell the compiler what they read
    for (std::int64_t row = 0; row < p.rows; row += block) {
      multiply_block(a + row * pairs, b, pairs, c);
      for (std::int64_t i = 0; i < std::min(block, p.rows - row); ++i)
        for (std::int64_t j = 0; j < width; j += 16) put(p, _mm512_load_ps(c + i * block + j), row + i, column + j);
    }
  }
  _tile_release();
}

#else

bool available() { return false; }
void multiply(const Product<float>&) {}

#endif

}  // namespace pyrl::nn::bfloat16
