// The one file that knows about compilers: attributes, and the choice of instruction set at run time.
//
// A kernel is written once, as a loop the compiler can vectorise, and wrapped in `simd::dispatch`; it is then compiled
// for the portable baseline, AVX2 and AVX-512, and the widest one the processor has is taken at run time. Because the
// build forbids contraction (-ffp-contract=off) the three versions of a recursion agree to the bit.
#pragma once

#if defined(__CUDACC__)
#define PYRL_HD __host__ __device__
#else
#define PYRL_HD
#endif

#if defined(__GNUC__) || defined(__clang__)
#define PYRL_RESTRICT __restrict__
#define PYRL_INLINE inline __attribute__((always_inline))
#define PYRL_INLINE_LAMBDA __attribute__((always_inline))
#else
#define PYRL_RESTRICT __restrict
#define PYRL_INLINE inline
#define PYRL_INLINE_LAMBDA
#endif

#if (defined(__GNUC__) || defined(__clang__)) && !defined(__CUDA_ARCH__)
#define PYRL_PREFETCH_L2(address) __builtin_prefetch(address, 0, 2)
#else
#define PYRL_PREFETCH_L2(address) ((void)(address))
#endif

// Before a loop over a few registers: they are an array only in the source.
#if defined(__clang__) || defined(__CUDACC__)
#define PYRL_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define PYRL_UNROLL _Pragma("GCC unroll 16")
#else
#define PYRL_UNROLL
#endif

#if (defined(__GNUC__) || defined(__clang__)) && (defined(__x86_64__) || defined(__i386__))
#define PYRL_X86 1
#define PYRL_TARGET_AVX2 __attribute__((target("avx2,fma")))
#if defined(__clang__)
#define PYRL_TARGET_AVX512 __attribute__((target("avx2,fma,avx512f,avx512vl,avx512bw,avx512dq")))
// Everything defined in between is compiled for the level.
#define PYRL_BEGIN_TARGET_AVX2 _Pragma("clang attribute push(__attribute__((target(\"avx2,fma\"))), apply_to = function)")
#define PYRL_BEGIN_TARGET_AVX512 \
  _Pragma("clang attribute push(__attribute__((target(\"avx2,fma,avx512f,avx512vl,avx512bw,avx512dq\"))), apply_to = function)")
#define PYRL_END_TARGET _Pragma("clang attribute pop")
#else
#define PYRL_TARGET_AVX512 __attribute__((target("avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,prefer-vector-width=512")))
#define PYRL_BEGIN_TARGET_AVX2 _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma\")")
#define PYRL_BEGIN_TARGET_AVX512 \
  _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,prefer-vector-width=512\")")
#define PYRL_END_TARGET _Pragma("GCC pop_options")
#endif
#else
#define PYRL_X86 0
#endif

namespace pyrl::simd {

enum class Level { Portable = 0, Avx2 = 1, Avx512 = 2 };

// The widest level this processor can run.
Level supported();
// The level in use: the supported one, or less if PYRL_SIMD=portable|avx2|avx512 or `set_level` asks for less.
Level level();
// For tests; a level above `supported()` is lowered to it.
void set_level(Level wanted);

#if PYRL_X86
template <class Body> PYRL_TARGET_AVX2 void run_avx2(const Body& body) { body(); }
template <class Body> PYRL_TARGET_AVX512 void run_avx512(const Body& body) { body(); }
#endif

// Runs `body`, a lambda marked PYRL_INLINE_LAMBDA, compiled for the level in use. Everything it calls must be PYRL_INLINE.
template <class Body>
inline void dispatch(const Body& body) {
#if PYRL_X86
  switch (level()) {
    case Level::Avx512: return run_avx512(body);
    case Level::Avx2: return run_avx2(body);
    case Level::Portable: break;
  }
#endif
  body();
}

// The same without AVX-512, for bodies that use no vector of more than 32 bytes: a third less to compile.
template <class Body>
inline void dispatch_to_avx2(const Body& body) {
#if PYRL_X86
  if (level() != Level::Portable) return run_avx2(body);
#endif
  body();
}

}  // namespace pyrl::simd
