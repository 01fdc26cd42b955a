// Memory for fresh outputs.
//
// A large block given back to the system costs a page fault for each 4 KiB of the next one: GAE on [2048, 64] took 387 us with
// malloc and free around each call, 36 us in memory that was kept. So freed blocks of 64 KiB and more wait here for the next
// output of their size, at most 192 MiB of them in all, and larger blocks ask for huge pages. A block is in use by one owner.
//
// Who calls it: bindings/fresh_array.cpp, for every large NumPy output that no `out` was given for. `out=` does as well where it is passed; this
// is for the many calls that do not.
#pragma once

#include <cstddef>

namespace pyrl {

// 64-byte aligned, uninitialised; throws std::bad_alloc. Any thread.
void* acquire_buffer(std::size_t bytes);
// Takes what acquire_buffer gave. Any thread.
void release_buffer(void* data) noexcept;

// Bytes that wait now (for tests).
std::size_t idle_buffer_bytes();

}  // namespace pyrl
