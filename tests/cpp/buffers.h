// Buffers that tell when a kernel reads or writes beyond them.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <stdexcept>
#include <vector>

namespace torchquant::kernels {

// Bytes that end at a page which nobody may touch: whoever reads or writes past them crashes. A gap
// of one byte leaves no element of several bytes aligned, and is too small to hold one.
class Fenced {
 public:
  template <class T>
  explicit Fenced(const std::vector<T>& values, size_t gap = sizeof(T) > 1 ? 1 : 0)
      : fence_(take_fence()), data_(fence_ - gap - values.size() * sizeof(T)) {
    if (fence_ - data_ > kCapacity) throw std::length_error("more than Fenced holds");
    if (!values.empty()) std::memcpy(data_, values.data(), values.size() * sizeof(T));
  }
  ~Fenced() { unused_.push_back(fence_); }
  Fenced(const Fenced&) = delete;
  Fenced& operator=(const Fenced&) = delete;

  void* data() { return data_; }
  const void* data() const { return data_; }
  template <class T>
  T* as() {
    return static_cast<T*>(data());
  }
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data());
  }

 private:
  static constexpr std::ptrdiff_t kCapacity = 1 << 20;

  // Mapping takes longer than most kernels: what was mapped is used again.
  static uint8_t* take_fence() {
    if (unused_.empty()) {
      const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
      void* mapped = mmap(nullptr, kCapacity + page, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (mapped == MAP_FAILED) throw std::bad_alloc();
      auto* fence = static_cast<uint8_t*>(mapped) + kCapacity;
      if (mprotect(fence, page, PROT_NONE) != 0) throw std::bad_alloc();
      unused_.push_back(fence);
    }
    uint8_t* fence = unused_.back();
    unused_.pop_back();
    return fence;
  }

  static inline std::vector<uint8_t*> unused_;
  uint8_t* fence_;
  uint8_t* data_;
};

// A buffer whose end is watched: whoever writes past the data changes the guard.
class Guarded {
 public:
  explicit Guarded(size_t size) : size_(size), bytes_(1 + size + kGuard, kFill) {}
  void* data() { return bytes_.data() + 1; }
  std::vector<uint8_t> content() const {
    return {bytes_.begin() + 1, bytes_.begin() + 1 + static_cast<std::ptrdiff_t>(size_)};
  }
  bool intact() const {
    for (size_t i = 1 + size_; i < bytes_.size(); ++i) {
      if (bytes_[i] != kFill) return false;
    }
    return bytes_[0] == kFill;
  }

 private:
  static constexpr size_t kGuard = 128;
  static constexpr uint8_t kFill = 0xa5;
  size_t size_;
  std::vector<uint8_t> bytes_;
};

}  // namespace torchquant::kernels
