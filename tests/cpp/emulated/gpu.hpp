// The emulated GPU, plugged in, for the twins' tests.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/cuda.hpp"
#include "emulator.hpp"

namespace pyrl {

inline const CudaStream gpu = [] {
  emulator_plug_in(true);
  return CudaStream{"test", 0, nullptr};
}();

// While it lasts, work is put off until something waits for it.
class Lazy {
 public:
  explicit Lazy(bool lazy) { emulator_be_lazy(lazy); }
  ~Lazy() { emulator_be_lazy(false); }
  Lazy(const Lazy&) = delete;
  Lazy& operator=(const Lazy&) = delete;
};

// While it lasts, the default stream is captured.
class Capture {
 public:
  Capture() { emulator_begin_capture(nullptr); }
  ~Capture() {
    if (void* const graph = emulator_end_capture(nullptr)) emulator_destroy_graph(graph);
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace pyrl
