# One place for everything that decides how code is compiled.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

option(ORRERY_TESTS "Build the tests" ON)
option(ORRERY_WERROR "Warnings are errors" ON)
option(ORRERY_MUTANTS "Build the deliberate mistakes that the determinism tests must catch" OFF)
set(ORRERY_SANITIZE "" CACHE STRING "Sanitizers, as in -fsanitize=: address,undefined or thread")

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
endif()

add_library(orrery_options INTERFACE)
# -ffp-contract=off: gcc and clang fuse a*b+c where FMA exists, so the same source gives different last
# bits on different targets (rule D6).
target_compile_options(orrery_options INTERFACE -ffp-contract=off -Wall -Wextra -Wpedantic -Wshadow -Wconversion
                       -Wno-sign-conversion -Wnon-virtual-dtor -Woverloaded-virtual)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ 12 reports std::string concatenation as overlapping memcpy (gcc bug 105651).
  target_compile_options(orrery_options INTERFACE -Wno-restrict)
endif()
if(ORRERY_WERROR)
  target_compile_options(orrery_options INTERFACE -Werror)
endif()
if(ORRERY_SANITIZE)
  # -O1 runs sanitized code three times faster than -O0 does; line tables suffice for a report's stack. Tests themselves
  # are compiled at -O0 (Library.cmake).
  set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g1")
  target_compile_options(orrery_options INTERFACE -fsanitize=${ORRERY_SANITIZE} -fno-omit-frame-pointer
                         -fno-sanitize-recover=all)
  # In a test's own code the checks of undefined behaviour are a quarter of its compile time.
  target_compile_options(orrery_options INTERFACE
                         $<$<BOOL:$<TARGET_PROPERTY:ORRERY_TEST>>:-fno-sanitize=undefined>)
  target_link_options(orrery_options INTERFACE -fsanitize=${ORRERY_SANITIZE})
endif()
find_program(MOLD mold)
if(MOLD)
  target_link_options(orrery_options INTERFACE -fuse-ld=mold)
endif()
