// Preconditions that are always on. The exceptions become Python's (pyrl.errors) at the border:
// ShapeError, DTypeError, DeviceError and NonFiniteError name the argument, what was expected and what came; ArgumentError is a ValueError.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace pyrl {

struct ArgumentError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
struct ShapeError : ArgumentError {
  using ArgumentError::ArgumentError;
};
struct DeviceError : ArgumentError {
  using ArgumentError::ArgumentError;
};
struct NonFiniteError : ArgumentError {
  using ArgumentError::ArgumentError;
};
struct DTypeError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

}  // namespace pyrl

// PYRL_CHECK(n > 0, ArgumentError, "uniform_indices: size must be positive, got ", n): the text is built only on failure.
#define PYRL_CHECK(condition, Error, ...)                                 \
  do {                                                                    \
    if (!(condition)) throw ::pyrl::Error(::pyrl::concat(__VA_ARGS__));   \
  } while (false)
