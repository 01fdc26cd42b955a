// A window: what one record stands for in a batch, for the CPU and for a thread of a GPU.
//
//   transition      observation of t, action, reward; next observation = observation of t + 1
//   n-step          reward = sum over i < k of gamma^i r_(t+i), next observation of t + k - 1, discount = gamma^k (1 - terminated),
//                   where k <= n ends at the first end of episode, cut, or newest transition of the lane
//   frame stack m   the last m observations of the episode, oldest first; missing ones repeat the first or are zero
//
// The lengths belong to a call, not to the ring: one ring serves windows of every length that its records allow.
#pragma once

#include <cstdint>
#include <cstring>

#include "replay/ring_view.hpp"

namespace pyrl::replay {

struct WindowLengths {
  int n_step = 1, frame_stack = 1;
};

// Sums over a record and those that follow.
struct Window {
  double reward = 0.0, discount = 1.0;  // discount: gamma^k, whatever the end
  std::int64_t next = 0;                // the slot of the next observation
  bool terminated = false;
};

// Rewards up to the first end, or to the newest transition of the lane.
PYRL_HD PYRL_INLINE Window transition_window(const RingView& ring, int n_step, std::int64_t first) {
  Window window;
  std::int64_t last = first;
  window.next = ring.next_slot(last);
  for (int k = 1;; ++k) {
    float reward = 0.0f;
    std::memcpy(&reward, ring.record(last), sizeof reward);
    window.reward += window.discount * reward;
    window.discount *= ring.options.gamma;
    if (k == n_step || (ring.flags[last] & flag::end) || !(ring.flags[window.next] & flag::transition)) break;
    last = window.next;
    window.next = ring.next_slot(last);
  }
  window.terminated = (ring.flags[last] & flag::terminated) != 0;
  return window;
}

// How many frames of the episode there are up to this one, at most `frame_stack`.
PYRL_HD inline int stack_length(const RingView& ring, int frame_stack, std::int64_t frame) {
  int length = 1;
  for (; length < frame_stack && !(ring.flags[frame] & flag::start); ++length) frame = ring.previous_slot(frame);
  return length;
}

}  // namespace pyrl::replay
