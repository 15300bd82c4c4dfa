// Writing a result into a tensor of the caller's, and changing one in place.
#pragma once

#include <ATen/MemoryOverlap.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <initializer_list>

namespace torchquant::ops {

inline void check_apart(const at::Tensor& out, std::initializer_list<at::Tensor> inputs) {
  at::assert_no_internal_overlap(out);
  for (const at::Tensor& input : inputs) at::assert_no_overlap(out, input);
}

// Calls write(dense) with `out` itself, or where that has gaps or lies in another order, with a
// dense tensor that is then copied into it. None of the inputs may share memory with it.
template <class Write>
void write_out(const at::Tensor& out, std::initializer_list<at::Tensor> inputs, Write write) {
  check_apart(out, inputs);
  if (out.is_contiguous()) return write(out);
  const at::Tensor dense = at::empty(out.sizes(), out.options());
  write(dense);
  out.copy_(dense);
}

// The same for a tensor whose values write(dense) begins with.
template <class Write>
void update(const at::Tensor& state, std::initializer_list<at::Tensor> inputs, Write write) {
  check_apart(state, inputs);
  const at::Tensor dense = state.contiguous();
  write(dense);
  if (!dense.is_same(state)) state.copy_(dense);
}

}  // namespace torchquant::ops
