// What every return reads, [T, N] row-major, and the sweep over it: time outside and backwards, environments inside.
//
// The value after step t has two forms.
//   next_value present: next_value[t] = V(next_observation of step t), the final observation where an episode ended.
//   next_value absent:  value has T+1 rows and value[t+1] serves, except where the step was truncated and not terminated:
//                       there row t+1 may belong to the next episode and final_value[t] is taken. final_value must be present
//                       as soon as one such step exists.
// `terminated` means no future value; `terminated or truncated` (done) ends every sum. Where `valid` is present and false the
// step is not a transition: its outputs are 0, its inputs are not used, and the step before it is the last of its sum.
// Outputs must overlap neither an input nor each other: neighbouring vectors may cover an environment twice.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>

#include "core/array_view.hpp"
#include "core/cuda.hpp"
#include "core/interrupt.hpp"
#include "core/parallel.hpp"
#include "core/platform.hpp"
#include "returns/vec.hpp"

namespace pyrl::returns {

template <class T>
struct RolloutView {
  ArrayView<const T, 2> reward;          // [T, N]
  ArrayView<const T, 2> value;           // [T, N], or [T+1, N] without next_value
  ArrayView<const T, 2> next_value;      // [T, N], optional
  ArrayView<const T, 2> final_value;     // [T, N], optional; read at cuts only
  ArrayView<const bool, 2> terminated;   // [T, N]
  ArrayView<const bool, 2> truncated;    // [T, N]
  ArrayView<const bool, 2> valid;        // [T, N], optional

  std::int64_t steps() const { return reward.extent[0]; }
  std::int64_t environments() const { return reward.extent[1]; }
};

// Rows `first` and later.
template <class T>
ArrayView<T, 2> rows_from(const ArrayView<T, 2>& array, std::int64_t first) {
  if (!array.present()) return array;
  return {array.row(first), {array.extent[0] - first, array.extent[1]}};
}

template <class T>
RolloutView<T> rows_from(const RolloutView<T>& rollout, std::int64_t first) {
  return {rows_from(rollout.reward, first),     rows_from(rollout.value, first),      rows_from(rollout.next_value, first), rows_from(rollout.final_value, first),
          rows_from(rollout.terminated, first), rows_from(rollout.truncated, first), rows_from(rollout.valid, first)};
}

// Throws ArgumentError if a step needs final_value and there is none.
template <class T>
void check_bootstrap(const RolloutView<T>& rollout, const char* function);

// The pointers a loop needs, resolved once.
template <class T>
struct RolloutPointers {
  const T *reward, *value, *next_value, *final_value;
  const bool *terminated, *truncated, *valid;
  std::int64_t steps, row;  // T, N
  bool final_missing = false;  // a step that needs final_value gets NaN: for loops that cannot check_bootstrap

  explicit RolloutPointers(const RolloutView<T>& rollout)
      : reward(rollout.reward.data), value(rollout.value.data), next_value(rollout.next_value.data), final_value(nullptr),
        terminated(rollout.terminated.data), truncated(rollout.truncated.data), valid(rollout.valid.data), steps(rollout.steps()),
        row(rollout.environments()) {
    if (next_value != nullptr || value == nullptr) return;
    next_value = value + rollout.environments();
    final_value = rollout.final_value.data;
  }
  // No optional input: the loop without its branches.
  bool plain() const { return next_value != nullptr && final_value == nullptr && valid == nullptr && !final_missing; }
  PYRL_HD bool last(std::int64_t t) const { return t + 1 == steps; }
};

// One step of W environments as it is in memory. Apart from `Step`, so that a loop can ask for it ahead of time.
template <class L>
struct StepInputs {
  typename L::Value reward, next_value, final_value;
  typename L::Bytes terminated, truncated, valid, later_valid;  // later: of row t+1
};

// One step of W environments, as every recursion sees it.
template <class L>
struct Step {
  typename L::Value reward;
  typename L::Value next_value;    // the value after the step, 0 if terminated (and if there is no value at all)
  typename L::Mask done;           // terminated or truncated, or before a step that is not valid: no sum continues
  typename L::Mask dead;           // not valid; unset in a plain loop
};

// The step at i = t N + environment; `last` says that there is no row t+1.
template <class L, bool Plain, class T>
PYRL_HD PYRL_INLINE StepInputs<L> read_inputs(const RolloutPointers<T>& from, std::int64_t i, bool last) {
  StepInputs<L> in{};
  in.reward = L::load(from.reward + i);
  in.terminated = L::load_flags(from.terminated + i);
  in.truncated = L::load_flags(from.truncated + i);
  if (Plain || from.next_value != nullptr) in.next_value = L::load(from.next_value + i);
  if constexpr (!Plain) {
    if (from.final_value != nullptr) in.final_value = L::load(from.final_value + i);
    if (from.valid != nullptr) {
      in.valid = L::load_flags(from.valid + i);
      if (!last) in.later_valid = L::load_flags(from.valid + i + from.row);
    }
  }
  return in;
}

template <class L, bool Plain, class T>
PYRL_HD PYRL_INLINE Step<L> step_of(const RolloutPointers<T>& from, const StepInputs<L>& in, bool last) {
  using Value = typename L::Value;
  Step<L> step{in.reward, in.next_value, L::mask(in.terminated | in.truncated), {}};
  if constexpr (!Plain) {
    if (from.final_value != nullptr) step.next_value = L::mask(in.truncated) ? in.final_value : step.next_value;
    if (from.final_missing) step.next_value = L::mask(in.truncated) ? Value{} + std::numeric_limits<T>::quiet_NaN() : step.next_value;
    if (from.valid != nullptr) {
      step.dead = ~L::mask(in.valid);
      if (!last) step.done |= ~L::mask(in.later_valid);
    }
  }
  step.next_value = zero_where(L::mask(in.terminated), step.next_value);
  return step;
}

namespace detail {

template <class L, bool Plain, class T, class Recursion, class Carry>
PYRL_INLINE void take_step(const RolloutPointers<T>& from, const Recursion& recursion, std::int64_t t, std::int64_t i, Carry& carry) {
  recursion.template step<L, Plain>(from, recursion.template read<L, Plain>(from, t, i), t, i, carry);
}

// What one thread sweeps: `lanes` environments from `begin` on, in rows of `row`.
struct Range {
  std::int64_t steps, row, begin, lanes;
};

constexpr std::int64_t asked_steps = 4096;  // between two questions whether to stop
constexpr int tile_bytes = 16384; // of carry, in the first-level cache

// At most two vectors a row: the carries stay in registers. The second vector ends at the last environment.
template <class L, bool Plain, bool Two, class T, class Recursion>
PYRL_INLINE void sweep_narrow(const RolloutPointers<T> from, const Recursion recursion, const Range range) {
  typename L::Value first{}, second{};
  for (std::int64_t t = range.steps - 1; t >= 0; --t) {
    if (t % asked_steps == 0) check_interrupt();
    const std::int64_t i = t * range.row + range.begin;
    take_step<L, Plain>(from, recursion, t, i, first);
    if constexpr (Two) take_step<L, Plain>(from, recursion, t, i + range.lanes - L::width, second);
  }
}

// Tiles of environments whose carries are in the first-level cache; a row of a tile is one run of memory, long enough for
// the prefetchers.
template <class L, bool Plain, class T, class Recursion>
PYRL_INLINE void sweep_wide(const RolloutPointers<T> from, const Recursion recursion, const Range range) {
  constexpr std::int64_t tile = tile_bytes / sizeof(T), width = L::width;
  alignas(64) T carries[tile];
  for (std::int64_t done = 0; done < range.lanes; done += tile) {
    const std::int64_t start = std::min(done, range.lanes - width), count = std::min(tile, range.lanes - start);
    std::fill_n(carries, (count + width - 1) / width * width, T{0});
    for (std::int64_t t = range.steps - 1; t >= 0; --t) {
      if (t % asked_steps == 0) check_interrupt();
      const std::int64_t i = t * range.row + range.begin + start;
      for (std::int64_t j = 0; j < count; j += width) {  // the last vector ends with the tile, its carry has a place of its own
        auto carry = L::load(carries + j);
        take_step<L, Plain>(from, recursion, t, i + std::min(j, count - width), carry);
        L::store(carries + j, carry);
      }
    }
  }
}

template <int W, bool Plain, class T, class Recursion>
PYRL_INLINE void sweep_lanes(const RolloutPointers<T>& from, const Recursion& recursion, const Range& range) {
  if (range.lanes > 2 * W) {
    sweep_wide<Vec<T, W>, Plain>(from, recursion, range);
  } else if (range.lanes > W) {
    sweep_narrow<Vec<T, W>, Plain, true>(from, recursion, range);
  } else if (range.lanes == W) {
    sweep_narrow<Vec<T, W>, Plain, false>(from, recursion, range);
  } else if constexpr (W > 4) {
    sweep_lanes<W / 2, Plain>(from, recursion, range);
  } else if (range.lanes == 3) {
    sweep_narrow<Vec<T, W, 3>, Plain, false>(from, recursion, range);
  } else if (range.lanes == 2) {
    sweep_narrow<Vec<T, W, 2>, Plain, false>(from, recursion, range);
  } else {
    sweep_narrow<Vec<T, W, 1>, Plain, false>(from, recursion, range);
  }
}

template <int Bytes, class T, class Recursion>
PYRL_INLINE void sweep_bytes(const RolloutPointers<T>& from, const Recursion& recursion, const Range& range) {
  constexpr int width = std::max(4, Bytes / static_cast<int>(sizeof(T)));
  if (from.plain()) {
    sweep_lanes<width, true>(from, recursion, range);
  } else {
    sweep_lanes<width, false>(from, recursion, range);
  }
}

}  // namespace detail

// Calls recursion.step<L, Plain>(pointers, inputs, t, i, carry) for all steps, t descending, where inputs is what
// recursion.read<L, Plain>(pointers, t, i) gave; i = t N + environment is the index of the first lane, and `carry` (0 at first)
// belongs to these lanes. Results do not depend on threads or instruction set.
// [steps, row] may differ from [T, N]: where there is no carry, all elements are one row.
template <class T, class Recursion>
void sweep(const RolloutPointers<T>& from, std::int64_t steps, std::int64_t row, const Recursion& recursion) {
  if (steps == 0 || row == 0) return;
  // Threads share out units of 64 environments; the last unit takes the rest, so no vector crosses into another's range.
  constexpr std::int64_t unit = 64, elements_a_thread = 1 << 17;
  const std::int64_t units = std::max<std::int64_t>(1, row / unit);
  const auto part = [&](std::int64_t first, std::int64_t last) {
    const detail::Range range{steps, row, first * unit, (last == units ? row : last * unit) - first * unit};
#if PYRL_X86
    switch (simd::level()) {
      case simd::Level::Avx512:
        return simd::run_avx512([&]() PYRL_INLINE_LAMBDA { detail::sweep_bytes<64>(from, recursion, range); });
      case simd::Level::Avx2:
        return simd::run_avx2([&]() PYRL_INLINE_LAMBDA { detail::sweep_bytes<32>(from, recursion, range); });
      case simd::Level::Portable: break;
    }
#endif
    detail::sweep_bytes<16>(from, recursion, range);
  };
  parallel_for(units, std::max<std::int64_t>(1, elements_a_thread / (unit * steps)), std::ref(part));  // a reference: nothing is allocated
}

template <class T, class Recursion>
void sweep(const RolloutView<T>& rollout, const Recursion& recursion) {
  sweep(RolloutPointers<T>(rollout), rollout.steps(), rollout.environments(), recursion);
}

}  // namespace pyrl::returns
