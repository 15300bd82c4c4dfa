#include "gemm.h"

#include <ATen/ops/empty.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "scratch.h"

namespace torchquant::ops {
namespace {

constexpr int64_t kPanelGroup = 4;  // panels that a tile of AVX-512 takes at once
constexpr int64_t kGroupColumns = kPanelGroup * kernels::kPanel;

// Up to so many activations each thread quantizes all rows for itself: that takes some 2 us, and
// so does handing them over from one parallel region to the next.
constexpr int64_t kSharedActivations = 32768;

// Rows that meet each panel in turn, and then the next panel. They fill half of L2, but no fewer of
// them than make the fetching of the weight cheap (at a depth of 4096, where L2 has room for 32
// rows of int16, 96 were up to an eighth faster), and no more than gain anything.
constexpr int64_t kMinRowBlock = 96;
constexpr int64_t kMaxRowBlock = 192;

// What the system says, or what every x86-64 server of the last ten years has at least.
int64_t l2_bytes() {
  constexpr int64_t kLeast = 256 * 1024;
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const int64_t bytes = std::max<int64_t>(sysconf(_SC_LEVEL2_CACHE_SIZE), kLeast);
  return bytes;
#else
  return kLeast;
#endif
}

int64_t prepared_row_bytes(const Gemm& g) {
  return kernels::quads_of(g.depth) * kernels::kQuad * g.kernel.activation_bytes;
}

bool lie_ready(const Gemm& g) {
  return g.activations.are_bytes() && g.kernel.activation_bytes == 1 &&
         g.depth % kernels::kQuad == 0;
}

bool flipped(const Gemm& g) { return g.plain != nullptr && g.plain->source.flip != 0; }

int32_t sum_row(const Activations& a, int64_t m, int64_t depth) {
  int32_t sum = 0;
  for (int64_t i = 0; i < depth; ++i) {
    sum += a.are_signed() ? static_cast<const int8_t*>(a.row(m))[i]
                          : static_cast<const uint8_t*>(a.row(m))[i];
  }
  return sum;
}

// Rows laid out for the kernel, and what the epilogue takes from each. Reused from call to call by
// the thread that owns it.
struct RowBlock {
  std::vector<uint8_t> prepared;
  std::vector<float> scale;
  std::vector<int32_t> zero_point;
  std::vector<int32_t> offset;
};

// Grows only: a vector that shrinks fills itself with zeros when it grows again.
template <class T>
void make_room(std::vector<T>& values, int64_t count) {
  if (static_cast<int64_t>(values.size()) < count) values.resize(count);
}

void make_room(const Gemm& g, int64_t count, RowBlock& block) {
  if (!lie_ready(g)) make_room(block.prepared, count * prepared_row_bytes(g));
  if (g.activations.have_own_params()) {
    make_room(block.scale, count);
    make_room(block.zero_point, count);
  }
  if (flipped(g)) make_room(block.offset, count);
}

// Row m of the product, as row i of the block.
void prepare_row(const Gemm& g, int64_t m, int64_t i, RowBlock& block) {
  const Activations& a = g.activations;
  // What flipping the weight took away, 128 for each activation.
  if (flipped(g)) block.offset[i] = kFlip * sum_row(a, m, g.depth);
  if (lie_ready(g)) return;
  void* to = block.prepared.data() + i * prepared_row_bytes(g);
  if (a.are_bytes()) {
    g.kernel.prepare_row(a.row(m), a.are_signed(), g.depth, to);
  } else if (a.params) {
    g.kernel.quantize_row(a.row(m), kernel_float(a.dtype), g.depth, *a.params, to);
  } else {
    const QParams chosen = g.kernel.quantize_token(a.row(m), kernel_float(a.dtype), g.depth, to);
    block.scale[i] = chosen.scale;
    block.zero_point[i] = chosen.zero_point;
  }
}

// Rows [first, first + count) of the product, which are rows [offset, ...) of the block.
struct Rows {
  int64_t first;
  int64_t count;
  const RowBlock& block;
  int64_t offset;
};

kernels::Epilogue epilogue_of(const Gemm& g, const Rows& rows) {
  kernels::Epilogue e = g.epilogue;
  if (g.activations.have_own_params()) {
    e.row_scale = rows.block.scale.data() + rows.offset;
    e.row_zero_point = rows.block.zero_point.data() + rows.offset;
    e.row_step = 1;
  }
  if (flipped(g)) e.row_offset = rows.block.offset.data() + rows.offset;
  return e;
}

// `weight` holds the packed panels [first_panel, last_panel).
void multiply(const Gemm& g, const Rows& rows, const int8_t* weight, int64_t first_panel,
              int64_t last_panel) {
  const bool ready = lie_ready(g);
  const int64_t stride = ready ? g.activations.row_bytes : prepared_row_bytes(g);
  const void* activations =
      ready ? g.activations.row(rows.first) : rows.block.prepared.data() + rows.offset * stride;
  char* out = static_cast<char*>(g.out) + rows.first * g.columns * g.out_element_size;
  g.kernel.multiply({activations, stride, g.activations.are_signed(), rows.count,
                     kernels::quads_of(g.depth), weight, first_panel, last_panel, g.columns,
                     epilogue_of(g, rows), out, g.columns});
}

// Multiplies by panels that are packed, or else packed here, group by group, while they are in L2.
void multiply_panels(const Gemm& g, const Rows& rows, int64_t first_panel, int64_t last_panel) {
  const int64_t size = panel_size(g.depth);
  if (g.plain == nullptr || g.packed != nullptr) {  // one without depth is packed and null
    return multiply(g, rows, g.packed + first_panel * size, first_panel, last_panel);
  }
  auto& packed = of_thread<std::vector<int8_t>>();
  make_room(packed, kPanelGroup * size);
  for (int64_t panel = first_panel; panel < last_panel; panel += kPanelGroup) {
    const int64_t end = std::min(panel + kPanelGroup, last_panel);
    pack_panels(g.plain->source, panel, end, packed.data());
    if (g.epilogue.row_zero_point != nullptr) {
      sum_panels(packed.data(), g.depth, panel, end, g.plain->sums + panel * kernels::kPanel);
    }
    multiply(g, rows, packed.data(), panel, end);
  }
}

// Some rows by some panels, the rows prepared by this very thread.
void prepare_and_multiply(const Gemm& g, int64_t first, int64_t count, int64_t first_panel,
                          int64_t last_panel) {
  auto& block = of_thread<RowBlock>();
  make_room(g, count, block);
  for (int64_t i = 0; i < count; ++i) prepare_row(g, first + i, i, block);
  multiply_panels(g, {first, count, block, 0}, first_panel, last_panel);
}

// How many threads share the rows, and how many the panels.
struct Grid {
  int64_t rows;
  int64_t panels;
};

// The time of a thread with so many rows and columns, in 1/128 cycles for each unit of depth, of a
// core that each cycle multiplies 128 pairs, or takes in 64 bytes of weight, or quantizes 8
// activations: an AVX-512 one. Slower sets multiply fewer, which counts for all choices alike.
int64_t cost(int64_t rows, int64_t columns) { return rows * columns + 2 * columns + 16 * rows; }

Grid choose_grid(const Gemm& g, int64_t threads) {
  const int64_t groups = at::divup(panel_count(g.columns), kPanelGroup);
  Grid best = {1, 1};
  int64_t least = INT64_MAX;
  for (int64_t by_panels = 1; by_panels <= threads; ++by_panels) {
    const int64_t by_rows = threads / by_panels;
    const int64_t time =
        cost(at::divup(g.rows, by_rows), at::divup(groups, by_panels) * kGroupColumns);
    if (time < least) {
      least = time;
      best = {std::min(by_rows, g.rows), std::min(by_panels, groups)};
    }
  }
  return best;
}

// The work in products, those with padding too: an output costs as much as some 32 of them, an
// activation to be quantized as 16. In double, which no size overflows.
double work_of(const Gemm& g) {
  const auto rows = static_cast<double>(g.rows);
  const auto columns = static_cast<double>(panel_count(g.columns) * kernels::kPanel);
  const auto depth = static_cast<double>(g.depth);
  const double quantizing = g.activations.are_bytes() ? 0 : 16 * rows * depth;
  return rows * columns * (depth + 32) + quantizing;
}

int64_t threads_for(const Gemm& g) {
  if (at::in_parallel_region()) return 1;
  const double worth = work_of(g) / static_cast<double>(g.kernel.products_per_thread);
  const int64_t threads = at::get_num_threads();
  return worth >= static_cast<double>(threads) ? threads
                                               : std::max<int64_t>(1, static_cast<int64_t>(worth));
}

// The begin of part `i` of `count` things in `parts` nearly equal parts.
int64_t part(int64_t count, int64_t parts, int64_t i) { return count * i / parts; }

int64_t row_block(const Gemm& g) {
  const int64_t fitting = l2_bytes() / 2 / std::max<int64_t>(1, prepared_row_bytes(g));
  return std::clamp(fitting, kMinRowBlock, kMaxRowBlock);
}

// Each thread takes rows, in nearly equal blocks that stay in its L2 while the whole weight passes
// by.
void run_by_rows(const Gemm& g, int64_t pieces) {
  parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
    const int64_t first = part(g.rows, pieces, begin);
    const int64_t rows = part(g.rows, pieces, end) - first;
    const int64_t blocks = at::divup(rows, row_block(g));
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t offset = part(rows, blocks, i);
      prepare_and_multiply(g, first + offset, part(rows, blocks, i + 1) - offset, 0,
                           panel_count(g.columns));
    }
  });
}

// Each thread takes some panels, so that the weight is read once, and all rows or a part of them.
void run_by_panels(const Gemm& g, Grid grid) {
  const int64_t groups = at::divup(panel_count(g.columns), kPanelGroup);
  const bool each_prepares =
      lie_ready(g) || at::divup(g.rows, grid.rows) * g.depth <= kSharedActivations;
  RowBlock shared;
  if (!each_prepares) {
    make_room(g, g.rows, shared);
    parallel_for(0, g.rows, at::divup(kGrain, g.depth), [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) prepare_row(g, m, m, shared);
    });
  }
  parallel_for(0, grid.rows * grid.panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t i = piece / grid.panels, j = piece % grid.panels;
      const int64_t first = part(g.rows, grid.rows, i);
      const int64_t count = part(g.rows, grid.rows, i + 1) - first;
      const int64_t first_panel = part(groups, grid.panels, j) * kPanelGroup;
      const int64_t last_panel =
          std::min(part(groups, grid.panels, j + 1) * kPanelGroup, panel_count(g.columns));
      if (each_prepares) {
        prepare_and_multiply(g, first, count, first_panel, last_panel);
      } else {
        multiply_panels(g, {first, count, shared, first}, first_panel, last_panel);
      }
    }
  });
}

void run_grid(const Gemm& g, Grid grid) {
  if (grid.panels == 1) return run_by_rows(g, grid.rows);
  run_by_panels(g, grid);
}

// Whether each panel of a plain weight meets all rows at once, so that it can be packed there.
bool packs_on_the_way(const Gemm& g, Grid grid) {
  return grid.rows == 1 && g.rows <= (grid.panels == 1 ? row_block(g) : kMaxRowBlock);
}

// Packs the whole weight first, for rows that would each pack it again.
void run_packed(Gemm g, Grid grid) {
  const int64_t size = panel_size(g.depth);
  // A tensor: where it does not fit, the error says how large it is.
  const Tensor whole = at::empty({panel_count(g.columns) * size}, at::kChar);
  auto* packed = whole.mutable_data_ptr<int8_t>();
  for_panels(g.columns, g.depth, [&](int64_t begin, int64_t end) {
    pack_panels(g.plain->source, begin, end, packed + begin * size);
    if (g.epilogue.row_zero_point != nullptr) {
      sum_panels(packed + begin * size, g.depth, begin, end,
                 g.plain->sums + begin * kernels::kPanel);
    }
  });
  g.packed = packed;
  run_grid(g, grid);
}

}  // namespace

void run(const Gemm& gemm) {
  if (gemm.rows == 0 || gemm.columns == 0) return;
  const Grid grid = choose_grid(gemm, threads_for(gemm));
  if (gemm.plain == nullptr) return run_grid(gemm, grid);
  if (packs_on_the_way(gemm, grid)) return run_grid(gemm, grid);
  run_packed(gemm, grid);
}

}  // namespace torchquant::ops
