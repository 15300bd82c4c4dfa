#include "bits.h"
#include "launch.cuh"

namespace torchquant::kernels::cuda {

void pack_bits(Queue queue, const void* codes, const BitRows& rows, void* packed, int32_t* beyond) {
  run(queue,
      PackBits{static_cast<const uint8_t*>(codes), rows, static_cast<uint8_t*>(packed), beyond});
}

void unpack_bits(Queue queue, const void* packed, const BitRows& rows, void* codes) {
  run(queue, UnpackBits{static_cast<const uint8_t*>(packed), rows, static_cast<uint8_t*>(codes)});
}

}  // namespace torchquant::kernels::cuda
