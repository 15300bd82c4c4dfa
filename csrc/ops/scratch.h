// Scratch of a thread, reused from call to call.
#pragma once

namespace torchquant::ops {

// The T of the calling thread, made when it first asks and freed as it ends. Whoever calls an
// operator even later (an exit handler, a destructor) gets one more, which nobody frees: a plain
// thread_local T would be used after its destructor has run.
template <class T>
T& of_thread() {
  static thread_local T* kept = nullptr;
  struct End {
    ~End() {
      delete kept;
      kept = nullptr;
    }
  };
  if (kept == nullptr) {
    kept = new T();
    static thread_local End end;  // registered once
    (void)&end;
  }
  return *kept;
}

}  // namespace torchquant::ops
