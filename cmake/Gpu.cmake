# Which GPU toolkits are here. Both are optional: without them everything but the device code builds.
# orrery_gpu is an INTERFACE library; what links it sees
#   ORRERY_CUDA_VERSION="13.0"   when an nvcc that compiles C++20 for sm_90a is here
#   ORRERY_HIP_VERSION="19.1"    when a clang that knows gfx942 and gfx1201 is here (ROCm's, or Debian's clang++-19)
set(ORRERY_CUDA AUTO CACHE STRING "CUDA: AUTO, ON (an error when it is missing) or OFF")
set(ORRERY_HIP AUTO CACHE STRING "HIP: AUTO, ON (an error when it is missing) or OFF")
add_library(orrery_gpu INTERFACE)
set(ORRERY_CUDA_VERSION "")
set(ORRERY_HIP_VERSION "")

# nvcc is called by custom commands (cmake/Kernels.cmake); CMake 3.25's own CUDA language stops at C++17.
if(NOT ORRERY_CUDA STREQUAL "OFF")
  find_program(ORRERY_NVCC nvcc PATHS ENV CUDA_HOME PATH_SUFFIXES bin)
  find_program(ORRERY_NVCC nvcc PATHS /usr/local/cuda/bin)
  set(probe "no compiler")
  if(ORRERY_NVCC)
    file(WRITE ${CMAKE_BINARY_DIR}/cuda_probe.cu "__global__ void probe(auto x) { static_assert(sizeof x > 0); }\n")
    execute_process(COMMAND ${ORRERY_NVCC} -std=c++20 -arch=sm_90a -cubin ${CMAKE_BINARY_DIR}/cuda_probe.cu
                            -o ${CMAKE_BINARY_DIR}/cuda_probe.cubin
                    RESULT_VARIABLE probe OUTPUT_QUIET ERROR_QUIET)
    find_package(CUDAToolkit QUIET)
  endif()
  if(probe STREQUAL "0" AND TARGET CUDA::cudart_static)
    string(REGEX MATCH "^[0-9]+\\.[0-9]+" ORRERY_CUDA_VERSION "${CUDAToolkit_VERSION}")
    target_compile_definitions(orrery_gpu INTERFACE ORRERY_CUDA_VERSION="${ORRERY_CUDA_VERSION}")
  elseif(ORRERY_CUDA STREQUAL "ON")
    message(FATAL_ERROR "ORRERY_CUDA=ON, but no nvcc that compiles C++20 for sm_90a with the host compiler was found: "
                        "set ORRERY_NVCC or leave ORRERY_CUDA at AUTO")
  endif()
endif()

# hipcc is only a wrapper; what decides is whether its clang knows the newest part we name.
if(NOT ORRERY_HIP STREQUAL "OFF")
  find_program(ORRERY_HIP_COMPILER NAMES clang++-19 clang++-20 clang++-21 amdclang++ clang++
               PATHS /opt/rocm/llvm/bin /opt/rocm/bin ENV ROCM_PATH)
  set(probe "no compiler")
  if(ORRERY_HIP_COMPILER)
    execute_process(COMMAND ${ORRERY_HIP_COMPILER} --target=amdgcn-amd-amdhsa -mcpu=gfx1201 -nogpulib -x c -c
                            /dev/null -o ${CMAKE_BINARY_DIR}/hip_probe.o
                    RESULT_VARIABLE probe OUTPUT_QUIET ERROR_QUIET)
  endif()
  if(probe STREQUAL "0")
    execute_process(COMMAND ${ORRERY_HIP_COMPILER} -dumpversion OUTPUT_VARIABLE version OUTPUT_STRIP_TRAILING_WHITESPACE)
    string(REGEX MATCH "^[0-9]+\\.[0-9]+" ORRERY_HIP_VERSION "${version}")
    target_compile_definitions(orrery_gpu INTERFACE ORRERY_HIP_VERSION="${ORRERY_HIP_VERSION}")
  elseif(ORRERY_HIP STREQUAL "ON")
    message(FATAL_ERROR "ORRERY_HIP=ON, but no clang that knows gfx942 and gfx1201 was found: install clang-19 and lld-19 "
                        "or set ORRERY_HIP_COMPILER")
  endif()
endif()
