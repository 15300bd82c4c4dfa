// Writing a result into a tensor of the caller's, and changing one in place.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <initializer_list>
#include <numeric>

namespace torchquant::ops {

struct Named {
  const at::Tensor& tensor;
  const char* name;
};

// The bytes from its first element to its last, gaps included.
struct Extent {
  const char* begin;
  const char* end;

  explicit Extent(const at::Tensor& tensor) : begin(nullptr), end(nullptr) {
    if (tensor.numel() == 0) return;
    int64_t last = 0;
    for (int64_t i = 0; i < tensor.dim(); ++i) last += (tensor.size(i) - 1) * tensor.stride(i);
    begin = static_cast<const char*>(tensor.const_data_ptr());
    end = begin + (last + 1) * tensor.element_size();
  }

  bool meets(const Extent& other) const { return begin < other.end && other.begin < end; }
};

// Whether no two elements lie in one place: from the least stride on, each dimension steps over
// all that those before it reach. True of every slice and transpose of a tensor that has it.
inline bool has_own_elements(const at::Tensor& tensor) {
  if (tensor.numel() == 0) return true;
  c10::DimVector dims(tensor.dim());
  std::iota(dims.begin(), dims.end(), 0);
  std::sort(dims.begin(), dims.end(),
            [&](int64_t a, int64_t b) { return tensor.stride(a) < tensor.stride(b); });
  int64_t reach = 0;
  for (const int64_t dim : dims) {
    if (tensor.size(dim) == 1) continue;
    if (tensor.stride(dim) <= reach) return false;
    reach += (tensor.size(dim) - 1) * tensor.stride(dim);
  }
  return true;
}

// Refuses what cannot be written to, or is known to be read. Returns whether some input may yet be
// read while `out` is written: that one of them lies in gaps of the other is not looked into.
inline bool check_apart(const Named& out, std::initializer_list<Named> inputs) {
  const char* mend = "pass one with memory of its own, as torch.empty_like makes it";
  TORCH_CHECK(has_own_elements(out.tensor), out.name,
              " must have a place of its own in memory for each element, but got strides ",
              out.tensor.strides(), " for shape ", out.tensor.sizes(), ": ", mend);
  bool may_meet = false;
  for (const auto& [input, name] : inputs) {
    if (!Extent(out.tensor).meets(Extent(input))) continue;
    TORCH_CHECK(
        !(out.tensor.is_non_overlapping_and_dense() && input.is_non_overlapping_and_dense()),
        out.name, " must not share memory with ", name, ", but got one that does: ", mend);
    may_meet = true;
  }
  return may_meet;
}

// Calls write(dense) with `out` itself, or where that has gaps, lies in another order or may be
// read meanwhile, with a dense tensor that is then copied into it.
template <class Write>
void write_out(const at::Tensor& out, std::initializer_list<Named> inputs, Write write) {
  const bool may_meet = check_apart({out, "out"}, inputs);
  if (out.is_contiguous() && !may_meet) return write(out);
  const at::Tensor dense = at::empty(out.sizes(), out.options());
  write(dense);
  out.copy_(dense);
}

// The same for a tensor whose values write(dense) begins with.
template <class Write>
void update(const Named& state, std::initializer_list<Named> inputs, Write write) {
  const bool may_meet = check_apart(state, inputs);
  const at::Tensor dense = may_meet ? state.tensor.clone() : state.tensor.contiguous();
  write(dense);
  if (!dense.is_same(state.tensor)) state.tensor.copy_(dense);
}

}  // namespace torchquant::ops
