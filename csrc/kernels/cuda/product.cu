#include "launch.cuh"
#include "product.h"

namespace torchquant::kernels::cuda {
namespace {

// What comes of the sums: they are finished by the block that has them, or where the depth is
// split among blocks, added up in `parts`.
struct ProductResult {
  SumsEpilogue epilogue;
  Output type;
  void* out;
  int64_t columns;
  bool has_vectors;
  int32_t* parts;
};

__device__ inline void copy_chunk(void* to, const int8_t* base, const Transfer& transfer) {
#if __CUDA_ARCH__ >= 800
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int8_t* from = transfer.exists ? base + transfer.from : base;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
               "r"(transfer.exists ? 16 : 0)  // what is not read is filled with zeros
               : "memory");
#endif
}

__device__ inline void end_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until all but the last kPending groups of copies have arrived.
template <int kPending>
__device__ inline void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

struct ActivationFragment {
  uint32_t quads[4];
};

__device__ inline ActivationFragment load_activations(const char* address) {
  ActivationFragment a = {};
#if __CUDA_ARCH__ >= 800
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a.quads[0]), "=r"(a.quads[1]), "=r"(a.quads[2]), "=r"(a.quads[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(address))));
#endif
  return a;
}

__device__ inline void multiply(int32_t (&sums)[4], const ActivationFragment& a, uint32_t low,
                                uint32_t high) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(a.quads[0]), "r"(a.quads[1]), "r"(a.quads[2]), "r"(a.quads[3]), "r"(low), "r"(high));
#endif
}

// Brings the tiles of a block, thread by thread.
template <class Shape>
struct TileLoader {
  ProductOperands operands;
  ActivationChunks<Shape> activations;
  WeightChunks<Shape> weights;

  __device__ void load(int64_t tile, char* stage) const {
#pragma unroll
    for (int i = 0; i < ActivationChunks<Shape>::kCount; ++i) {
      const Transfer transfer = activations(i, tile * kDepth);
      copy_chunk(stage + transfer.to, operands.activations, transfer);
    }
    char* panels = stage + Shape::kActivationBytes;
#pragma unroll
    for (int i = 0; i < WeightChunks<Shape>::kCount; ++i) {
      const Transfer transfer = weights(i, tile * kDepthQuads);
      copy_chunk(panels + transfer.to, operands.weight, transfer);
    }
  }
};

// The sums of a warp: row tiles by panels, of each panel the even outputs and the odd ones.
template <class Shape>
struct WarpSums {
  int32_t sums[Shape::kRowTiles][Shape::kPanels][2][4] = {};

  // What the lanes hold of one step.
  struct Fragments {
    ActivationFragment activations[Shape::kRowTiles];
    uint2 low[Shape::kPanels];
    uint2 high[Shape::kPanels];
  };

  // A step is read while the one before it is multiplied.
  __device__ void add_tile(const char* stage, int first_row_tile, int first_panel, int lane) {
    Fragments fragments[2];
    read(stage, first_row_tile, first_panel, 0, lane, fragments[0]);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (step + 1 < kSteps) {
        read(stage, first_row_tile, first_panel, step + 1, lane, fragments[(step + 1) % 2]);
      }
      add(fragments[step % 2]);
    }
  }

  __device__ static void read(const char* stage, int first_row_tile, int first_panel, int step,
                              int lane, Fragments& to) {
    const char* panels = stage + Shape::kActivationBytes;
#pragma unroll
    for (int r = 0; r < Shape::kRowTiles; ++r) {
      to.activations[r] =
          load_activations(stage + activation_address(first_row_tile + r, step, lane));
    }
#pragma unroll
    for (int p = 0; p < Shape::kPanels; ++p) {
      const char* panel = panels + weight_address(first_panel + p, step, 0, lane);
      to.low[p] = *reinterpret_cast<const uint2*>(panel);
      to.high[p] = *reinterpret_cast<const uint2*>(panel + 4 * kPanelRow);
    }
  }

  __device__ void add(const Fragments& f) {
#pragma unroll
    for (int p = 0; p < Shape::kPanels; ++p) {
#pragma unroll
      for (int r = 0; r < Shape::kRowTiles; ++r) {
        multiply(sums[r][p][0], f.activations[r], f.low[p].x, f.high[p].x);
        multiply(sums[r][p][1], f.activations[r], f.low[p].y, f.high[p].y);
      }
    }
  }

  __device__ void store(int32_t* block, int first_row_tile, int first_panel, int lane) const {
#pragma unroll
    for (int r = 0; r < Shape::kRowTiles; ++r) {
#pragma unroll
      for (int p = 0; p < Shape::kPanels; ++p) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const auto of_lane = sums_of_lane(sums[r][p][0], sums[r][p][1], half);
          const auto& four = of_lane.values;
          const int place = sums_place<Shape>(first_row_tile + r, first_panel + p, half, lane);
          *reinterpret_cast<int4*>(block + place) = make_int4(four[0], four[1], four[2], four[3]);
        }
      }
    }
  }
};

template <class Out>
__device__ inline void finish(const ProductResult& result, const Vector<int32_t, 4>& sums,
                              int64_t m, int64_t n) {
  FinishSums<Out>{
      nullptr,           0, 0, result.columns, result.epilogue, static_cast<Out*>(result.out),
      result.has_vectors}
      .write(sums, m, n);
}

__device__ inline void add_parts(const ProductResult& result, const Vector<int32_t, 4>& sums,
                                 int64_t m, int64_t n) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (n + i < result.columns)
      atomicAdd(result.parts + m * result.columns + n + i, sums.values[i]);
  }
}

__device__ inline void keep(const ProductResult& result, const Vector<int32_t, 4>& sums, int64_t m,
                            int64_t n) {
  if (result.parts != nullptr) return add_parts(result, sums, m, n);
  switch (result.type) {
    case Output::i32:
      return finish<int32_t>(result, sums, m, n);
    case Output::f32:
      return finish<float>(result, sums, m, n);
    case Output::f16:
      return finish<Half>(result, sums, m, n);
    case Output::bf16:
      return finish<BFloat16>(result, sums, m, n);
    case Output::i8:
      return finish<int8_t>(result, sums, m, n);
    case Output::u8:
      return finish<uint8_t>(result, sums, m, n);
  }
}

// The sums of a block, which lie in shared memory, row by row.
template <class Shape>
__device__ void keep_block(const ProductOperands& operands, const ProductResult& result,
                           const int32_t* sums, int64_t first_row, int64_t first_column) {
  constexpr int kFours = Shape::kColumns / 4;
  for (int i = threadIdx.x; i < Shape::kRows * kFours; i += Shape::kThreads) {
    const int row = i / kFours, column = i % kFours * 4;
    const int64_t m = first_row + row, n = first_column + column;
    if (m >= operands.rows || n >= result.columns) continue;
    keep(result, load_vector<int32_t, 4>(sums + row * Shape::kSumsStride + column), m, n);
  }
}

// A block has Shape::kRows rows and Shape::kBlockPanels panels, and of the depth its split.
template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads)
    multiply_tiles(ProductOperands operands, int64_t tiles_of_split, ProductResult result) {
  extern __shared__ __align__(16) char stages[];
  const int64_t row_blocks = divide_up(operands.rows, Shape::kRows);
  const int64_t first_row = blockIdx.x % row_blocks * Shape::kRows;
  const int64_t first_panel = blockIdx.x / row_blocks * Shape::kBlockPanels;
  const int64_t first = blockIdx.y * tiles_of_split;
  const auto count =
      static_cast<int>(smaller(tiles_of_split, divide_up(operands.quads, kDepthQuads) - first));
  const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  const int row_tile = warp / Shape::kColumnsOfWarps * Shape::kRowTiles;
  const int panel = warp % Shape::kColumnsOfWarps * Shape::kPanels;

  const TileLoader<Shape> loader = {operands,
                                    {operands, first_row, static_cast<int>(threadIdx.x)},
                                    {operands, first_panel, static_cast<int>(threadIdx.x)}};
  const auto load = [&](int i) {
    if (i < count) loader.load(first + i, stages + i % Shape::kStages * Shape::kStageBytes);
    end_copies();
  };
  for (int i = 0; i < Shape::kStages - 1; ++i) load(i);
  WarpSums<Shape> own;
  for (int i = 0; i < count; ++i) {
    wait_for_copies<Shape::kStages - 2>();
    __syncthreads();  // everyone's copies are there, and everyone is done with the stage before
    load(i + Shape::kStages - 1);
    own.add_tile(stages + i % Shape::kStages * Shape::kStageBytes, row_tile, panel, lane);
  }

  wait_for_copies<0>();
  __syncthreads();  // the stages are free for the sums
  own.store(reinterpret_cast<int32_t*>(stages), row_tile, panel, lane);
  __syncthreads();
  keep_block<Shape>(operands, result, reinterpret_cast<const int32_t*>(stages), first_row,
                    first_panel * kPanel);
}

ProductOperands operands_of(const PackedProduct& product) {
  return {product.activations,
          product.rows,
          product.stride,
          product.packed,
          divide_up(product.columns, kPanel),
          product.quads};
}

template <class Shape>
int64_t blocks_of(const ProductOperands& operands) {
  return divide_up(operands.rows, Shape::kRows) * divide_up(operands.panels, Shape::kBlockPanels);
}

// Calls f(Shape()) with the tiles that are fastest for so many rows, as measured on an H200.
template <class F>
auto with_shape(const ProductOperands& operands, F f) {
  if (operands.rows <= 64) return f(SmallTiles());
  if (operands.rows <= 256) return f(MiddleTiles());
  return f(LargeTiles());
}

// To split the depth takes two kernels more, some 3 us: for what would leave most multiprocessors
// without a block for longer than that.
template <class Shape>
int64_t splits_of(Queue queue, const ProductOperands& operands) {
  constexpr int64_t kLeastTiles = 32;
  const int64_t tiles = divide_up(operands.quads, kDepthQuads);
  const int64_t wanted = queue.multiprocessors / blocks_of<Shape>(operands);
  const int64_t splits = smaller(wanted, tiles / kLeastTiles);
  return splits < 2 ? 1 : divide_up(tiles, divide_up(tiles, splits));  // none of them empty
}

}  // namespace

int64_t product_splits(Queue queue, const PackedProduct& product) {
  const ProductOperands operands = operands_of(product);
  return with_shape(operands,
                    [&](auto shape) { return splits_of<decltype(shape)>(queue, operands); });
}

void multiply_packed(Queue queue, const PackedProduct& product, const SumsEpilogue& epilogue,
                     Output type, void* out, int64_t splits, int32_t* parts) {
  const ProductOperands operands = operands_of(product);
  const bool is_split = splits > 1;
  if (is_split) {
    cudaMemsetAsync(parts, 0, product.rows * product.columns * sizeof(int32_t), queue.stream);
  }
  const bool has_vectors = with_type(
      type, [&](auto value) { return has_aligned_rows<decltype(value)>(out, product.columns); });
  const ProductResult result = {epilogue,        type,        out,
                                product.columns, has_vectors, is_split ? parts : nullptr};
  with_shape(operands, [&](auto shape) {
    using Shape = decltype(shape);
    constexpr int kBytes = Shape::kStages * Shape::kStageBytes;
    const int64_t tiles = divide_up(operands.quads, kDepthQuads);
    cudaFuncSetAttribute(multiply_tiles<Shape>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         kBytes);
    const dim3 grid(static_cast<unsigned>(blocks_of<Shape>(operands)),
                    static_cast<unsigned>(splits));
    multiply_tiles<Shape><<<grid, Shape::kThreads, kBytes, queue.stream>>>(
        operands, divide_up(tiles, splits), result);
    return 0;
  });
  if (is_split) {
    finish_sums(queue, parts, product.columns, product.rows, product.columns, epilogue, type, out);
  }
}

}  // namespace torchquant::kernels::cuda
