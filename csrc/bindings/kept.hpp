// What Python makes, kept from its first use on.
#pragma once

namespace pyrl::bindings {

// `place`, a `static` that begins as null, after `make` has filled it. Not the `static` itself from `make`: what asks Python may let another
// thread in, which would wait at the guard of that `static` with the interpreter's lock held, while this one waits for that lock. Two threads
// that come first at once make it twice.
template <class T, class Make>
T* kept(T*& place, const Make& make) {
  if (place == nullptr) place = make();
  return place;
}

}  // namespace pyrl::bindings
