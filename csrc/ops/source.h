// An input as it lies in memory, read in the order of its elements: in place where its rows are
// consecutive, through a small buffer where its columns are, and copied only where neither is.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernel_types.h"
#include "parallel.h"

namespace torchquant::ops {

// Dimensions without those of size 1, and with those joined that one stride walks through.
struct Layout {
  c10::DimVector sizes;
  c10::DimVector strides;

  explicit Layout(const at::Tensor& tensor) {
    const int64_t dims = tensor.numel() == 0 ? 0 : tensor.dim();
    for (int64_t i = 0; i < dims; ++i) {
      if (tensor.size(i) != 1) append(tensor.size(i), tensor.stride(i));
    }
    if (sizes.empty()) append(tensor.numel(), 1);
  }

  int64_t dims() const { return static_cast<int64_t>(sizes.size()); }
  int64_t size() const { return c10::multiply_integers(sizes); }
  int64_t row() const { return sizes.back(); }
  bool is_contiguous() const { return dims() == 1 && strides[0] == 1; }
  bool has_rows() const { return strides.back() == 1; }

  // How far element `index` of the first `dims` dimensions lies from the first.
  int64_t offset_of(int64_t index, int64_t dims) const {
    int64_t offset = 0;
    for (int64_t i = dims - 1; i >= 0; --i) {
      offset += index % sizes[i] * strides[i];
      index /= sizes[i];
    }
    return offset;
  }

 private:
  void append(int64_t size, int64_t stride) {
    if (!sizes.empty() && strides.back() == stride * size) {
      sizes.back() *= size;
      strides.back() = stride;
      return;
    }
    sizes.push_back(size);
    strides.push_back(stride);
  }
};

// Elements that pass through a buffer at once.
inline constexpr int64_t kPiece = 4096;
using Piece = std::vector<char>;

class Source {
 public:
  // What of its memory the reader can use. Where the tensor has no rows, or columns, it is copied.
  enum class Reads { rows, rows_or_columns };

  Source(const at::Tensor& tensor, Reads reads) : tensor_(tensor), layout_(tensor) {
    if (layout_.has_rows()) return;
    if (reads == Reads::rows_or_columns && column_dim() >= 0) return;
    tensor_ = tensor.contiguous();
    layout_ = Layout(tensor_);
  }

  const Layout& layout() const { return layout_; }
  int64_t size() const { return tensor_.numel(); }
  at::ScalarType dtype() const { return tensor_.scalar_type(); }

  // The element that lies `offset` elements from the first.
  const void* at_offset(int64_t offset) const { return element(tensor_, offset); }

  // Elements [begin, end), at most kPiece of them, of a source with rows: in place, or copied into
  // `piece` where they belong to several rows.
  const void* read(int64_t begin, int64_t end, Piece& piece) const {
    const int64_t row = layout_.row();
    if (layout_.is_contiguous()) return at_offset(begin);
    if (begin / row == (end - 1) / row) return address(begin);
    const int64_t size = tensor_.element_size();
    piece.resize(kPiece * size);
    for (int64_t i = begin; i < end;) {
      const int64_t stop = std::min(end, (i / row + 1) * row);
      std::memcpy(piece.data() + (i - begin) * size, address(i), (stop - i) * size);
      i = stop;
    }
    return piece.data();
  }

  // Element `index` of a source with rows.
  const void* address(int64_t index) const {
    if (layout_.is_contiguous()) return at_offset(index);
    const int64_t row = layout_.row();
    return at_offset(layout_.offset_of(index / row, layout_.dims() - 1) + index % row);
  }

  // Where rows end, from element `index` on; a piece of short ones.
  int64_t stop_of(int64_t index, int64_t end) const {
    constexpr int64_t kShortRow = 128;
    if (layout_.is_contiguous()) return end;
    if (layout_.row() < kShortRow) return std::min(end, index + kPiece);
    return std::min(end, (index / layout_.row() + 1) * layout_.row());
  }

  // The dimension, other than the last, whose elements are consecutive; -1 where none is.
  int64_t column_dim() const {
    const auto found = std::find(layout_.strides.begin(), layout_.strides.end() - 1, 1);
    return found == layout_.strides.end() - 1 ? -1 : found - layout_.strides.begin();
  }

 private:
  at::Tensor tensor_;
  Layout layout_;
};

// A source with columns, cut into tiles that are transposed on the way: memory gives lines of
// kTileRows elements, whole.
inline constexpr int64_t kTileRows = 64;
inline constexpr int64_t kTileColumns = 256;
inline constexpr int64_t kTileStride = kTileColumns + 16;  // rows that share no set of a cache

struct Tiles {
  // How far the tile lies from the source's first element; which element of the result it begins
  // with.
  struct Tile {
    int64_t offset;
    int64_t first;
    int64_t rows;
    int64_t columns;
  };

  explicit Tiles(const Source& source) : layout(source.layout()) {
    const int64_t dim = source.column_dim();
    height = layout.sizes[dim];
    width = layout.row();
    apart = c10::multiply_integers(layout.sizes.begin() + dim + 1, layout.sizes.end());
    down = at::divup(height, kTileRows);
    across = at::divup(width, kTileColumns);
  }

  int64_t between() const { return apart / width; }
  int64_t count() const { return layout.size() / (height * width) * down * across; }
  int64_t size() const { return std::min(height, kTileRows) * std::min(width, kTileColumns); }

  Tile operator[](int64_t index) const {
    const int64_t column = index % across * kTileColumns;
    const int64_t middle = index / across % between();
    const int64_t top = index / across / between() % down * kTileRows;
    const int64_t outer = index / across / between() / down;
    const int64_t row = (outer * height + top) * between() + middle;
    return {layout.offset_of(row, layout.dims() - 1) + column * layout.strides.back(),
            row * width + column, std::min(kTileRows, height - top),
            std::min(kTileColumns, width - column)};
  }

  const Layout& layout;
  int64_t height, width;  // of the columns, and of a row of the result
  int64_t apart;          // rows of a tile, in the result
  int64_t down, across;   // tiles of a matrix
};

template <class Visit>
void for_each_tile_row(const Source& source, Visit visit) {
  const Tiles tiles(source);
  const auto size = static_cast<int64_t>(c10::elementSize(source.dtype()));
  parallel_for(0, tiles.count(), at::divup(kGrain, tiles.size()), [&](int64_t from, int64_t to) {
    std::vector<char> rows(kTileRows * kTileStride * size);
    for (int64_t i = from; i < to; ++i) {
      const Tiles::Tile tile = tiles[i];
      kernels::active().transpose.tile(source.at_offset(tile.offset), tiles.layout.strides.back(),
                                       rows.data(), kTileStride, tile.rows, tile.columns, size);
      for (int64_t r = 0; r < tile.rows; ++r) {
        const int64_t begin = tile.first + r * tiles.apart;
        visit(begin, begin + tile.columns, rows.data() + r * kTileStride * size);
      }
    }
  });
}

// Calls visit(begin, end, data) in parallel for stretches of elements, in the order of the result,
// that lie one behind the other at `data`.
template <class Visit>
void for_each_stretch(const Source& source, Visit visit) {
  if (source.size() == 0) return;
  if (!source.layout().has_rows()) return for_each_tile_row(source, visit);
  parallel_for(0, source.size(), kGrain, [&](int64_t begin, int64_t end) {
    Piece piece;
    while (begin < end) {
      const int64_t stop = source.stop_of(begin, end);
      visit(begin, stop, source.read(begin, stop, piece));
      begin = stop;
    }
  });
}

}  // namespace torchquant::ops
