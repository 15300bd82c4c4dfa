# The half of LibTorch that CPU programs need: target TorchCPU, TORCH_VERSION, TORCH_LIBRARY_DIR.
# find_package(Torch) of a CUDA build of torch demands the CUDA toolkit, which who only wants the
# CPU operators need not have.
find_path(TORCH_CONFIG_DIR TorchConfig.cmake
  HINTS ${Torch_DIR} PATH_SUFFIXES Torch share/cmake/Torch NO_CACHE)
if(NOT TORCH_CONFIG_DIR)
  message(FATAL_ERROR "LibTorch was not found: pass -DCMAKE_PREFIX_PATH=/path/to/libtorch, or the "
    "output of: python -c 'import torch; print(torch.utils.cmake_prefix_path)'")
endif()
cmake_path(SET TORCH_ROOT NORMALIZE "${TORCH_CONFIG_DIR}/../../..")
set(TORCH_LIBRARY_DIR "${TORCH_ROOT}/lib")

include(${TORCH_CONFIG_DIR}/TorchConfigVersion.cmake)
set(TORCH_VERSION "${PACKAGE_VERSION}")

if(NOT TARGET TorchCPU)
  add_library(TorchCPU INTERFACE IMPORTED)
  target_include_directories(TorchCPU SYSTEM INTERFACE
    ${TORCH_ROOT}/include ${TORCH_ROOT}/include/torch/csrc/api/include)
  target_link_libraries(TorchCPU INTERFACE
    ${TORCH_LIBRARY_DIR}/libtorch_cpu.so ${TORCH_LIBRARY_DIR}/libc10.so)
endif()
