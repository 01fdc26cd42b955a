// The random stream of an object: a fork copies the object, and the child's continues with numbers of its own.
#pragma once

#include <cstdint>

#include "core/lineage.hpp"
#include "core/philox.hpp"

namespace pyrl {

// A stream's state, and the process in which it was set.
class StreamOwner {
 public:
  // To be called before the state is used. In a forked child the first call replaces the key: by a function of the key and of which
  // child it is, so that siblings differ from each other too. A stream that is made or set in the child keeps its key.
  void claim(RandomStream& stream) {
    const std::uint64_t process = lineage();
    if (process_ == process) return;
    const PhiloxBlock words = philox(process, stream.key, 0, 0);
    stream.key = std::uint64_t{words[0]} << 32 | words[1];
    process_ = process;
  }
  void set() { process_ = lineage(); }

 private:
  std::uint64_t process_ = lineage();
};

}  // namespace pyrl
