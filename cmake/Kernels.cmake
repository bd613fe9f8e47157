# How a kernels/*.cu file becomes code. Each is compiled up to six times from the same source:
#   NVIDIA   nvcc by a custom command, so that no target's link language becomes CUDA (a clang or sanitizer build
#            would otherwise be linked by nvcc's host compiler) and so that ptxas' report is kept for check_spills
#   gfx942, gfx1201   clang, freestanding (../shared/reference/toolchain.md §2.3), one code object each
#   CPU simulator at 32 and at 64 lanes, and as gfx1201 (32 lanes, its matrix instructions), as C++ in the tests' libraries
set(ORRERY_CUDA_ARCHITECTURES "89;90a" CACHE STRING "NVIDIA targets: L40S; H20, H100, H200 (wgmma needs the a)")
set(ORRERY_HIP_ARCHITECTURES "gfx942;gfx1201" CACHE STRING "AMD targets: MI300X; R9700")
set(ORRERY_KERNEL_OUTPUT ${CMAKE_BINARY_DIR}/kernels/device)
file(MAKE_DIRECTORY ${ORRERY_KERNEL_OUTPUT})

# Sets OUT to the object files of the given .cu files for all NVIDIA targets. ptxas' words: NAME.ptxas.log.
function(orrery_cuda_objects out)
  set(targets "")
  foreach(arch ${ORRERY_CUDA_ARCHITECTURES})
    list(APPEND targets -gencode arch=compute_${arch},code=sm_${arch})
  endforeach()
  set(host_warnings "-Wall,-Wextra")
  set(objects "")
  foreach(source ${ARGN})
    cmake_path(GET source STEM name)
    set(object ${ORRERY_KERNEL_OUTPUT}/${name}.cuda.o)
    # ccache's own preprocessor pass sees no code that one architecture alone has (__CUDA_ARCH_FEAT_SM90_ALL), so
    # that a change there would find the old object: it must go by the files that were read.
    set(command ${CMAKE_COMMAND} -E env CCACHE_DEPEND=1 ${CCACHE} ${ORRERY_NVCC} -std=c++20 -O3 ${targets} -Xptxas -v -Werror all-warnings
                -Xcompiler ${host_warnings},-fPIC -I${CMAKE_BINARY_DIR}/layers/kernels
                -MD -MF ${object}.d -c ${CMAKE_CURRENT_SOURCE_DIR}/${source} -o ${object})
    list(JOIN command " " command)
    add_custom_command(OUTPUT ${object}
      COMMAND sh -c "${command} 2> ${ORRERY_KERNEL_OUTPUT}/${name}.ptxas.log || { cat ${ORRERY_KERNEL_OUTPUT}/${name}.ptxas.log >&2; exit 1; }"
      DEPENDS ${source} DEPFILE ${object}.d COMMENT "nvcc ${source}" VERBATIM)
    list(APPEND objects ${object})
  endforeach()
  set_source_files_properties(${objects} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
  set(${out} ${objects} PARENT_SCOPE)
endfunction()

# Sets OUT to the code objects of the given .cu files, one per AMD target. Resource use: NAME.gfx….log.
function(orrery_hip_code_objects out)
  set(objects "")
  foreach(source ${ARGN})
    cmake_path(GET source STEM name)
    foreach(arch ${ORRERY_HIP_ARCHITECTURES})
      set(object ${ORRERY_KERNEL_OUTPUT}/${name}.${arch}.co)
      set(log ${ORRERY_KERNEL_OUTPUT}/${name}.${arch}.log)
      set(command ${CCACHE} ${ORRERY_HIP_COMPILER} -x hip -nogpuinc -nogpulib -fdeclspec -std=c++20 -O3 -Wall
                  -Wextra -Werror --cuda-device-only --no-gpu-bundle-output --offload-arch=${arch}
                  -Rpass-analysis=kernel-resource-usage -I${CMAKE_BINARY_DIR}/layers/kernels
                  -MD -MF ${object}.d ${CMAKE_CURRENT_SOURCE_DIR}/${source} -o ${object})
      list(JOIN command " " command)
      add_custom_command(OUTPUT ${object}
        COMMAND sh -c "${command} 2> ${log} || { cat ${log} >&2; exit 1; }"
        DEPENDS ${source} DEPFILE ${object}.d COMMENT "clang ${arch} ${source}" VERBATIM)
      list(APPEND objects ${object})
    endforeach()
  endforeach()
  set(${out} ${objects} PARENT_SCOPE)
endfunction()
