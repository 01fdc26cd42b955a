// Threads that never compete with torch's: one by default while torch is loaded, more only where asked for.
#pragma once

#include <cstdint>
#include <functional>

namespace pyrl {

// Sets the thread count (PYRL_NUM_THREADS or set_num_threads); 0 = decide: one while torch is loaded, else one per core.
// Returns the previous setting.
int set_num_threads(int count);
// Threads a kernel may use now.
int num_threads();
// The bindings say whether torch shares this process.
void note_torch_loaded(bool loaded);

// Calls body(begin, end) over disjoint ranges that cover [0, n), on at most `num_threads()` threads and never with fewer than
// `grain` items a range. The split must not change results. Called from inside a body it runs serially.
// One call at a time has helpers; those that come meanwhile run serially, and so wait for none.
// The first exception of a body is rethrown after all ranges have ended. Long ranges come in pieces, between which the work can be
// stopped (interrupt.hpp).
void parallel_for(std::int64_t n, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& body);

}  // namespace pyrl
