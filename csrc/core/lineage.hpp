// Which process of a family this is.
#pragma once

#include <cstdint>

namespace pyrl {

// 0 where the library was loaded; another number in each forked descendant: the n-th child of a process has always the same.
std::uint64_t lineage();

}  // namespace pyrl
