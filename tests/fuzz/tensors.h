// Tensors for operators: any shape, dtype, strides, offset and alignment.
#pragma once

#include <ATen/ATen.h>
#include <torchquant.h>

#include "input.h"
#include "math/affine.h"

namespace torchquant::fuzz {

inline constexpr at::ScalarType kFloats[] = {at::kFloat, at::kHalf, at::kBFloat16};
inline constexpr at::ScalarType kCodes[] = {at::kChar, at::kByte, at::kShort, at::kInt};

using Shape = std::vector<int64_t>;

inline Shape shape(Input& input, int64_t least_dims) {
  Shape sizes;
  const int64_t dims = input.integer(least_dims, 4);
  for (int64_t i = 0; i < dims; ++i) sizes.push_back(input.integer(0, 7));
  if (dims > 0 && input.flip()) sizes.back() = input.integer(0, dims > 2 ? 200 : 1500);
  return sizes;
}

inline int64_t count_of(const Shape& sizes) {
  int64_t count = 1;
  for (const int64_t size : sizes) count *= size;
  return count;
}

template <class T>
at::Tensor dense(const std::vector<T>& values, const Shape& sizes, at::ScalarType dtype) {
  const auto own = c10::CppTypeToScalarType<T>::value;
  const at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, own);
  if (!values.empty()) {
    std::memcpy(tensor.mutable_data_ptr(), values.data(), values.size() * sizeof(T));
  }
  return tensor.reshape(sizes).to(dtype);
}

inline at::Tensor floats(Input& input, const Shape& sizes, at::ScalarType dtype) {
  return dense(input.floats(count_of(sizes)), sizes, dtype);
}

inline at::Tensor codes(Input& input, const Shape& sizes, at::ScalarType dtype) {
  const at::Tensor tensor = at::empty(sizes, dtype);
  const auto bytes = input.bytes(static_cast<int64_t>(tensor.nbytes()));
  if (!bytes.empty()) std::memcpy(tensor.mutable_data_ptr(), bytes.data(), bytes.size());
  return tensor;
}

// Uninitialised memory of exactly the bytes from the first element to the last, at any alignment.
inline at::Tensor strided(const Shape& sizes, const Shape& strides, at::ScalarType dtype,
                          int64_t misalignment) {
  int64_t extent = count_of(sizes) == 0 ? 0 : 1;
  for (size_t i = 0; i < sizes.size(); ++i) extent += (sizes[i] - 1) * strides[i] * (extent > 0);
  const auto size = static_cast<size_t>(extent * int64_t(c10::elementSize(dtype)) + misalignment);
  auto* memory = new char[size];
  return at::from_blob(
      memory + misalignment, sizes, strides, [memory](void*) { delete[] memory; }, dtype);
}

// The dimensions in some order of memory, with gaps between elements.
inline at::Tensor anywhere(Input& input, const Shape& sizes, at::ScalarType dtype) {
  const auto dims = static_cast<int64_t>(sizes.size());
  Shape order(sizes.size()), strides(sizes.size());
  for (int64_t i = 0; i < dims; ++i) order[i] = i;
  for (int64_t i = dims - 1; i > 0 && input.flip(); --i) {
    std::swap(order[i], order[input.integer(0, i)]);
  }
  int64_t stride = input.flip() ? 1 : input.integer(1, 3);
  for (int64_t i = dims - 1; i >= 0; --i) {
    strides[order[i]] = stride;
    stride *= std::max<int64_t>(1, sizes[order[i]]) + (input.flip() ? input.integer(0, 2) : 0);
  }
  return strided(sizes, strides, dtype, input.flip() ? input.integer(0, 1) : 0);
}

// The same values in another place of memory.
inline at::Tensor elsewhere(Input& input, const at::Tensor& values) {
  return anywhere(input, values.sizes().vec(), values.scalar_type()).copy_(values);
}

// These values in some layout; in one with a stride of 0, the first of a dimension for all of it.
inline at::Tensor laid_out(Input& input, const at::Tensor& values) {
  const int64_t dim = values.dim() == 0 ? -1 : input.integer(-3, values.dim() - 1);
  if (dim < 0 || values.size(dim) == 0) return elsewhere(input, values);
  return laid_out(input, values.select(dim, 0)).unsqueeze(dim).expand(values.sizes());
}

// A contiguous copy, aligned as plain code needs it.
inline at::Tensor plain(const at::Tensor& tensor) {
  return tensor.clone(at::MemoryFormat::Contiguous);
}

inline bool equal_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) return false;
  const at::Tensor x = plain(a), y = plain(b);
  if (!at::isFloatingType(a.scalar_type())) return at::equal(x, y);
  const auto size = static_cast<int64_t>(x.element_size());
  const auto bits = size == 8 ? at::kLong : size == 4 ? at::kInt : at::kShort;
  const at::Tensor same = x.view(bits).eq(y.view(bits)), nans = x.isnan().logical_and(y.isnan());
  return same.logical_or(nans).all().item<bool>();
}

struct CodeRange {
  int64_t min, max;
};

inline CodeRange code_range(Input& input, at::ScalarType dtype) {
  const CodeRange whole = dtype == at::kChar    ? CodeRange{-128, 127}
                          : dtype == at::kByte  ? CodeRange{0, 255}
                          : dtype == at::kShort ? CodeRange{-32768, 32767}
                                                : CodeRange{-65536, 65535};
  if (input.flip()) return whole;
  const int64_t min = input.integer(whole.min, whole.max - 1);
  return {min, input.integer(min + 1, whole.max)};
}

}  // namespace torchquant::fuzz
