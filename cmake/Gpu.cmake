# Which GPU toolkits are here. Both are optional: without them everything but the kernels builds.
#
# ORRERY_HAVE_CUDA, ORRERY_CUDA_VERSION   nvcc that compiles C++20 for the host compiler at hand
# ORRERY_HAVE_HIP, ORRERY_HIP_VERSION     a clang that knows gfx942 and gfx1201 (ROCm's or Debian's clang++-19)
set(ORRERY_CUDA AUTO CACHE STRING "Use CUDA: AUTO, ON (an error when it is missing) or OFF")
set(ORRERY_HIP AUTO CACHE STRING "Use HIP: AUTO, ON (an error when it is missing) or OFF")
set(ORRERY_HAVE_CUDA FALSE)
set(ORRERY_HAVE_HIP FALSE)

# CMake 3.25 stops at C++17 for nvcc and refuses CXX_STANDARD 20 as soon as the CUDA language is on; nvcc
# itself takes -std=c++20. A no-op where CMake knows the flag.
macro(orrery_enable_cuda)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 89-real 90a-real)  # L40S; H100, H200, H20 (wgmma needs the "a")
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
    set(ORRERY_HAVE_CUDA TRUE)
    string(REGEX MATCH "^[0-9]+\\.[0-9]+" ORRERY_CUDA_VERSION "${CMAKE_CUDA_COMPILER_VERSION}")
  elseif(ORRERY_CUDA STREQUAL "ON")
    message(FATAL_ERROR "ORRERY_CUDA=ON, but no working nvcc was found; set CMAKE_CUDA_COMPILER or install CUDA 12.8 or newer")
  endif()
endif()
