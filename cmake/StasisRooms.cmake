# A room of the house is a static library of all sources in its folder. Its
# unit tests (*_test.cc) stand beside the sources and become one executable.

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(Catch2 REQUIRED)

# Catch's own half is large: compiled once, as fast as can be, and not looked at by sanitizers.
add_library(stasis_test_main OBJECT ${PROJECT_SOURCE_DIR}/test/unit_main.cc)
target_compile_options(stasis_test_main PRIVATE -O0)
target_link_libraries(stasis_test_main PUBLIC Catch2::Catch2)

add_library(stasis_flags INTERFACE)
target_compile_options(stasis_flags INTERFACE
  -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Werror=return-type
  -fno-strict-aliasing -ffunction-sections -fdata-sections)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # All wrong about std::string (GCC bug 105651); clang looks at the same code.
  target_compile_options(stasis_flags INTERFACE
    -Wno-restrict -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread)
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

# Five sixths of a build went into reading others' headers again and again. What a room
# precompiles changes nothing else: every file includes what it uses, which clang-tidy sees to.
set(stasis_common_headers
  <algorithm> <array> <cstdint> <cstring> <filesystem> <fstream> <functional> <map> <memory> <optional>
  <set> <span> <string> <string_view> <utility> <vector> <fmt/format.h>)

# stasis_room(NAME [DEPENDS lib...] [TEST_DEPENDS lib...] [SUBDIRS dir...]
#             [PRECOMPILE header... | PRECOMPILED_AS room])
# NAME "base" becomes library stasis_base and, where it has *_test.cc, the
# test executable base_tests. PRECOMPILE names headers beside the common ones.
function(stasis_room name)
  cmake_parse_arguments(ROOM "" "PRECOMPILED_AS" "DEPENDS;TEST_DEPENDS;SUBDIRS;PRECOMPILE" ${ARGN})
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
  if(ROOM_PRECOMPILED_AS)
    set(precompiled stasis_${ROOM_PRECOMPILED_AS})
    target_precompile_headers(stasis_${name} REUSE_FROM ${precompiled})
  else()
    set(precompiled stasis_${name})
    target_precompile_headers(stasis_${name} PRIVATE ${stasis_common_headers} ${ROOM_PRECOMPILE})
  endif()
  if(tests)
    add_executable(${name}_tests ${tests})
    target_link_libraries(${name}_tests PRIVATE stasis_${name} stasis_test_main ${ROOM_TEST_DEPENDS})
    target_precompile_headers(${name}_tests REUSE_FROM ${precompiled})
    target_compile_definitions(${name}_tests PRIVATE
      STASIS_FIXTURES="${PROJECT_SOURCE_DIR}/test/fixtures")
    set_property(GLOBAL APPEND PROPERTY STASIS_UNIT_TESTS ${name}_tests)
  endif()
endfunction()
