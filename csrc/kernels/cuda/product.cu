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

// Addresses in shared memory take 32 bits, and half of the arithmetic.
using SharedAddress = uint32_t;

__device__ inline SharedAddress shared_address(const void* address) {
  return static_cast<SharedAddress>(__cvta_generic_to_shared(address));
}

__device__ inline void copy_chunk(SharedAddress stage, const int8_t* base,
                                  const Transfer& transfer) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(stage + transfer.to),
               "l"(base + transfer.from),
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

__device__ inline ActivationFragment load_activations(SharedAddress address) {
  ActivationFragment a = {};
#if __CUDA_ARCH__ >= 800
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a.quads[0]), "=r"(a.quads[1]), "=r"(a.quads[2]), "=r"(a.quads[3])
               : "r"(address));
#endif
  return a;
}

__device__ inline uint32_t load_quad(SharedAddress address) {
  uint32_t quad;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(quad) : "r"(address));
  return quad;
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

  __device__ void load(int64_t tile, SharedAddress stage) const {
#pragma unroll
    for (int i = 0; i < ActivationChunks<Shape>::kCount; ++i) {
      copy_chunk(stage, operands.activations, activations(i, tile * kDepth));
    }
#pragma unroll
    for (int i = 0; i < WeightChunks<Shape>::kCount; ++i) {
      copy_chunk(stage + Shape::kActivationBytes, operands.weight, weights(i, tile * kDepthQuads));
    }
  }
};

// The sums of a warp: row tiles by panels, two instructions to each.
template <class Shape>
struct WarpSums {
  int32_t sums[Shape::kRowTiles][Shape::kPanels][2][4] = {};

  // What the lanes hold of one step.
  struct Fragments {
    ActivationFragment activations[Shape::kRowTiles];
    uint32_t weights[Shape::kPanels][2][2];  // by instruction and half
  };

  // A step is read while the one before it is multiplied.
  __device__ void add_tile(SharedAddress stage, const LaneAddresses<Shape>& at) {
    Fragments fragments[2];
    read(stage, at, 0, fragments[0]);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (step + 1 < kSteps) read(stage, at, step + 1, fragments[(step + 1) % 2]);
      add(fragments[step % 2]);
    }
  }

  __device__ static void read(SharedAddress stage, const LaneAddresses<Shape>& at, int step,
                              Fragments& to) {
#pragma unroll
    for (int r = 0; r < Shape::kRowTiles; ++r) {
      to.activations[r] = load_activations(stage + at.activations(r, step));
    }
#pragma unroll
    for (int p = 0; p < Shape::kPanels; ++p) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        to.weights[p][i / 2][i % 2] = load_quad(stage + at.weights(p, step, i % 2, i / 2));
      }
    }
  }

  __device__ void add(const Fragments& f) {
#pragma unroll
    for (int p = 0; p < Shape::kPanels; ++p) {
#pragma unroll
      for (int r = 0; r < Shape::kRowTiles; ++r) {
        multiply(sums[r][p][0], f.activations[r], f.weights[p][0][0], f.weights[p][0][1]);
        multiply(sums[r][p][1], f.activations[r], f.weights[p][1][0], f.weights[p][1][1]);
      }
    }
  }

  __device__ void store(int32_t* block, int first_row_tile, int first_panel, int lane) const {
#pragma unroll
    for (int r = 0; r < Shape::kRowTiles; ++r) {
#pragma unroll
      for (int p = 0; p < Shape::kPanels; ++p) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int32_t* two = sums[r][p][i / 2] + i % 2 * 2;
          const int place =
              sums_place<Shape>(first_row_tile + r, first_panel + p, i / 2, i % 2, lane);
          *reinterpret_cast<int2*>(block + place) = make_int2(two[0], two[1]);
        }
      }
    }
  }
};

// What a thread has of the sums of a block, which lie in shared memory: four columns, the same in
// every so many rows.
template <class Shape>
struct BlockShare {
  static constexpr int kFours = Shape::kColumns / kFour;
  static constexpr int kRowsAtOnce = Shape::kThreads / kFours;
  static constexpr int kCount = Shape::kRows / kRowsAtOnce;
  static_assert(Shape::kThreads % kFours == 0 && Shape::kRows % kRowsAtOnce == 0);

  const int32_t* sums;
  int64_t first_row;
  int64_t first_column;
  int64_t rows;

  __device__ int place(int i) const { return threadIdx.x / kFours + i * kRowsAtOnce; }
  __device__ int64_t row(int i) const { return first_row + place(i); }
  __device__ int64_t column() const { return first_column + threadIdx.x % kFours * kFour; }
  __device__ Four four(int i) const {
    return load_vector<int32_t, kFour>(sums + place(i) * Shape::kSumsStride +
                                       threadIdx.x % kFours * kFour);
  }
};

// What belongs to several rows is loaded before the first of them is written.
template <class Out, class Shape>
__device__ void finish_block(const ProductResult& result, const BlockShare<Shape>& share) {
  constexpr int kSeveral = share.kCount < 8 ? share.kCount : 8;
  const FinishFour<Out> finish = {result.epilogue, result.columns, static_cast<Out*>(result.out),
                                  result.has_vectors};
  const int64_t n = share.column();
  const auto columns = finish.load_columns(n);
  for (int first = 0; first < share.kCount; first += kSeveral) {
    typename FinishFour<Out>::Row rows[kSeveral];
#pragma unroll
    for (int i = 0; i < kSeveral; ++i) {
      if (share.row(first + i) < share.rows) rows[i] = finish.load_row(share.row(first + i));
    }
#pragma unroll
    for (int i = 0; i < kSeveral; ++i) {
      const int64_t m = share.row(first + i);
      if (m < share.rows) finish.write(share.four(first + i), rows[i], columns, m, n);
    }
  }
}

template <class Shape>
__device__ void add_block(const ProductResult& result, const BlockShare<Shape>& share) {
  for (int i = 0; i < share.kCount; ++i) {
    const int64_t m = share.row(i), n = share.column();
    const Four four = share.four(i);
    if (m >= share.rows) return;
#pragma unroll
    for (int j = 0; j < kFour; ++j) {
      if (n + j < result.columns) {
        atomicAdd(result.parts + m * result.columns + n + j, four.values[j]);
      }
    }
  }
}

template <class Shape>
__device__ void keep_block(const ProductResult& result, const BlockShare<Shape>& share) {
  if (share.column() >= result.columns) return;
  if (result.parts != nullptr) return add_block(result, share);
  switch (result.type) {
    case Output::i32:
      return finish_block<int32_t>(result, share);
    case Output::f32:
      return finish_block<float>(result, share);
    case Output::f16:
      return finish_block<Half>(result, share);
    case Output::bf16:
      return finish_block<BFloat16>(result, share);
    case Output::i8:
      return finish_block<int8_t>(result, share);
    case Output::u8:
      return finish_block<uint8_t>(result, share);
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

  const auto thread = static_cast<int>(threadIdx.x);
  const TileLoader<Shape> loader = {
      operands, {operands, first_row, thread}, {operands, first_panel, thread}};
  const LaneAddresses<Shape> at(row_tile, panel, lane);
  const SharedAddress begin = shared_address(stages);
  for (int i = 0; i < Shape::kStages - 1; ++i) {
    if (i < count) loader.load(first + i, begin + i * Shape::kStageBytes);
    end_copies();
  }
  WarpSums<Shape> own;
  int full = 0, empty = Shape::kStages - 1;  // stages: the next to multiply, the next to fill
  for (int i = 0; i < count; ++i) {
    wait_for_copies<Shape::kStages - 2>();
    __syncthreads();  // everyone's copies are there, and everyone is done with the stage before
    const int next = i + Shape::kStages - 1;
    if (next < count) loader.load(first + next, begin + empty * Shape::kStageBytes);
    end_copies();
    own.add_tile(begin + full * Shape::kStageBytes, at);
    full = full + 1 == Shape::kStages ? 0 : full + 1;
    empty = empty + 1 == Shape::kStages ? 0 : empty + 1;
  }

  wait_for_copies<0>();
  __syncthreads();  // the stages are free for the sums
  own.store(reinterpret_cast<int32_t*>(stages), row_tile, panel, lane);
  __syncthreads();
  keep_block(result, BlockShare<Shape>{reinterpret_cast<const int32_t*>(stages), first_row,
                                       first_panel * kPanel, operands.rows});
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
  if (operands.rows <= 64) return f(SmallestTiles());
  if (operands.rows <= 128) return f(SmallTiles());
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
  const bool has_vectors = with_type(type, [&](auto value) {
    return finish_four<decltype(value)>(epilogue, product.columns, out).has_vectors;
  });
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
