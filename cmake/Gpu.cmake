# Which GPU toolkits are here. Both are optional: without them everything but the kernels builds.
# orrery_gpu is an INTERFACE library; what links it sees
#   ORRERY_CUDA_VERSION="13.0"   when nvcc compiles C++20 with the host compiler at hand
#   ORRERY_HIP_VERSION="19.1"    when a clang that knows gfx942 and gfx1201 is here (ROCm's, or Debian's clang++-19)
set(ORRERY_CUDA AUTO CACHE STRING "CUDA: AUTO, ON (an error when it is missing) or OFF")
set(ORRERY_HIP AUTO CACHE STRING "HIP: AUTO, ON (an error when it is missing) or OFF")
add_library(orrery_gpu INTERFACE)
set(ORRERY_CUDA_VERSION "")
set(ORRERY_HIP_VERSION "")

# CMake 3.25 stops at C++17 for nvcc, and refuses C++20 as soon as the CUDA language is on; nvcc itself takes
# -std=c++20. A no-op where CMake knows the flag. A macro: the variables must reach the calling directory.
macro(orrery_enable_cuda)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 89-real 90a-real)  # L40S; H20, H100, H200 (wgmma needs the "a")
  endif()
  enable_language(CUDA)
  if(CMAKE_CUDA_COMPILER_ID STREQUAL "NVIDIA" AND NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    list(APPEND CMAKE_CUDA_COMPILE_FEATURES cuda_std_20)
    set(CMAKE_CUDA20_COMPILE_FEATURES cuda_std_20)
  endif()
  set(CMAKE_CUDA_STANDARD 20)
endmacro()

if(NOT ORRERY_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    orrery_enable_cuda()
    string(REGEX MATCH "^[0-9]+\\.[0-9]+" ORRERY_CUDA_VERSION "${CMAKE_CUDA_COMPILER_VERSION}")
    target_compile_definitions(orrery_gpu INTERFACE ORRERY_CUDA_VERSION="${ORRERY_CUDA_VERSION}")
  elseif(ORRERY_CUDA STREQUAL "ON")
    message(FATAL_ERROR "ORRERY_CUDA=ON, but no working nvcc was found: set CMAKE_CUDA_COMPILER or leave it at AUTO")
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
