# orrery_library(name DIR folder SOURCES … LINKS …): a layer of the house.
#
# `#include "base/time.h"` compiles only in code that links `base`: each library offers an include
# directory that holds nothing but a link to its own folder. So the CMake link lists are the
# architecture's arrows, and the compiler checks them.
function(orrery_library name)
  cmake_parse_arguments(ARG "" "DIR" "SOURCES;LINKS;PRIVATE_LINKS" ${ARGN})
  if(NOT ARG_DIR)
    set(ARG_DIR ${name})
  endif()
  set(view ${CMAKE_BINARY_DIR}/layers/${name})
  cmake_path(GET ARG_DIR PARENT_PATH parent)
  file(MAKE_DIRECTORY ${view}/${parent})
  file(CREATE_LINK ${CMAKE_SOURCE_DIR}/${ARG_DIR} ${view}/${ARG_DIR} SYMBOLIC)
  add_library(${name} STATIC ${ARG_SOURCES})
  orrery_mutants(${ARG_SOURCES})
  add_library(orrery::${name} ALIAS ${name})
  set_target_properties(${name} PROPERTIES OUTPUT_NAME orrery_${name})
  target_include_directories(${name} PUBLIC ${view})
  target_link_libraries(${name} PUBLIC ${ARG_LINKS} PRIVATE orrery_options ${ARG_PRIVATE_LINKS})
endfunction()

# With -DORRERY_MUTANTS=ON: the macro for those sources only that have a mutant, so that ccache finds all the others as the
# Release build left them.
function(orrery_mutants)
  if(ORRERY_MUTANTS)
    foreach(source ${ARGN})
      set(lines)
      if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${source})  # not what the build writes itself
        file(STRINGS ${CMAKE_CURRENT_SOURCE_DIR}/${source} lines REGEX "include .*mutation\\.h")
      endif()
      if(lines)
        set_property(SOURCE ${source} APPEND PROPERTY COMPILE_DEFINITIONS ORRERY_MUTANTS)
      endif()
    endforeach()
  endif()
endfunction()

# A folder of its own for what a test writes: fixed names in it meet nobody, another gate's least of all.
function(orrery_own_tmpdir name)
  set(folder ${CMAKE_BINARY_DIR}/tmp/${name})
  file(MAKE_DIRECTORY ${folder})
  set_property(TEST ${name} APPEND PROPERTY ENVIRONMENT "TMPDIR=${folder}")
endfunction()

# orrery_test(name SOURCES … LINKS …): one Catch2 program, its cases registered with CTest.
function(orrery_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  orrery_mutants(${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
  target_link_libraries(${name} PRIVATE ${ARG_LINKS} orrery_catch orrery_options)
  target_compile_definitions(${name} PRIVATE ORRERY_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  # What a test checks is compiled as it is shipped, or sanitized; the test itself need not be fast, and compiles in two
  # thirds of the time.
  target_compile_options(${name} PRIVATE -O0)
  set_target_properties(${name} PROPERTIES ORRERY_TEST ON)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT 600)
  orrery_own_tmpdir(${name})
endfunction()
