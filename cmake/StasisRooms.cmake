# A room of the house is a static library of all sources in its folder. Its
# unit tests (*_test.cc) stand beside the sources and become one executable.

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(Catch2 REQUIRED)

add_library(stasis_flags INTERFACE)
target_compile_options(stasis_flags INTERFACE
  -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Werror=return-type
  -fno-strict-aliasing -ffunction-sections -fdata-sections)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(stasis_flags INTERFACE -Wno-restrict)  # wrong about std::string (GCC bug 105651)
endif()
target_compile_definitions(stasis_flags INTERFACE _GNU_SOURCE _FILE_OFFSET_BITS=64)
target_include_directories(stasis_flags INTERFACE ${PROJECT_SOURCE_DIR})
target_link_options(stasis_flags INTERFACE -Wl,--gc-sections)
target_link_libraries(stasis_flags INTERFACE fmt::fmt Threads::Threads)
if(STASIS_SANITIZE)
  target_compile_options(stasis_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=all
    -fno-omit-frame-pointer)
  target_link_options(stasis_flags INTERFACE -fsanitize=address,undefined)
endif()
if(STASIS_FUZZ)
  target_compile_options(stasis_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

# stasis_room(NAME [DEPENDS lib...] [TEST_DEPENDS lib...] [SUBDIRS dir...])
# NAME "base" becomes library stasis_base and, where it has *_test.cc, the
# test executable base_tests.
function(stasis_room name)
  cmake_parse_arguments(ROOM "" "" "DEPENDS;TEST_DEPENDS;SUBDIRS" ${ARGN})
  set(globs *.cc)
  foreach(dir ${ROOM_SUBDIRS})
    list(APPEND globs ${dir}/*.cc)
  endforeach()
  file(GLOB sources CONFIGURE_DEPENDS ${globs})
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  add_library(stasis_${name} STATIC ${sources})
  target_link_libraries(stasis_${name} PUBLIC stasis_flags ${ROOM_DEPENDS})
  if(tests)
    add_executable(${name}_tests ${tests} ${PROJECT_SOURCE_DIR}/test/unit_main.cc)
    target_link_libraries(${name}_tests PRIVATE stasis_${name} Catch2::Catch2 ${ROOM_TEST_DEPENDS})
    target_compile_definitions(${name}_tests PRIVATE
      STASIS_FIXTURES="${PROJECT_SOURCE_DIR}/test/fixtures")
    set_property(GLOBAL APPEND PROPERTY STASIS_UNIT_TESTS ${name}_tests)
  endif()
endfunction()
