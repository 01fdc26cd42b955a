// Preloaded, fails one allocation of pyrl's extension: the n-th after fail_allocation(n).
#include <dlfcn.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

long remaining = 0;  // 0: none fails
long failed = 0;

bool fails(void* caller) {
  if (remaining == 0) return false;
  Dl_info info;
  if (dladdr(caller, &info) == 0 || info.dli_fname == nullptr || std::strstr(info.dli_fname, "/_core.") == nullptr) return false;
  if (--remaining > 0) return false;
  ++failed;
  return true;
}

}  // namespace

extern "C" {

void fail_allocation(long number) {
  remaining = number;
  failed = 0;
}

long allocations_failed() {
  remaining = 0;
  return failed;
}

int posix_memalign(void** memory, size_t alignment, size_t size) {
  static auto* const real = reinterpret_cast<int (*)(void**, size_t, size_t)>(dlsym(RTLD_NEXT, "posix_memalign"));
  return fails(__builtin_return_address(0)) ? ENOMEM : real(memory, alignment, size);
}

void* mmap(void* address, size_t size, int protection, int flags, int file, off_t offset) noexcept {
  static auto* const real = reinterpret_cast<void* (*)(void*, size_t, int, int, int, off_t)>(dlsym(RTLD_NEXT, "mmap"));
  return fails(__builtin_return_address(0)) ? MAP_FAILED : real(address, size, protection, flags, file, offset);
}
}

void* operator new(size_t size) {
  const bool of_registry = size == 24;  // a node of pybind11's registry of instances, without which it cannot go on
  void* const memory = !of_registry && fails(__builtin_return_address(0)) ? nullptr : std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void* operator new(size_t size, std::align_val_t alignment) {
  const auto step = static_cast<size_t>(alignment);
  void* const memory = fails(__builtin_return_address(0)) ? nullptr : std::aligned_alloc(step, (size + step - 1) / step * step);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
