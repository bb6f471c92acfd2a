# Helpers for small targets: one library a directory, one test a source file.

find_program(TEMPO_CCACHE ccache)
if(TEMPO_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${TEMPO_CCACHE})
endif()

add_compile_options(-Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Werror
                    -fno-omit-frame-pointer -fstack-protector-strong)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 sees an overlap in "literal" + std::string that is not there (GCC bug 105651).
  add_compile_options(-Wno-restrict)
endif()
if(CMAKE_BUILD_TYPE STREQUAL "Release")
  add_compile_definitions(_FORTIFY_SOURCE=2)
endif()
add_link_options(-Wl,-z,relro,-z,now -Wl,--as-needed)
if(TEMPO_SANITIZE)
  add_compile_options(-fsanitize=${TEMPO_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${TEMPO_SANITIZE})
  # GCC 12 warns about std::regex once it is instrumented (GCC bug 105562).
  add_compile_options($<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  if(TEMPO_SANITIZE MATCHES "thread")
    # ThreadSanitizer knows no fences; Asio's add nothing to its locks.
    add_compile_definitions(BOOST_ASIO_DISABLE_FENCED_BLOCK)
  endif()
endif()
if(TEMPO_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

# tempo_library(name SOURCES a.cc ... DEPS lib ... TESTS a_test.cc ... [TEST_DEPS lib ...])
# Each test becomes a program of its own, named after its file; label "fast" unless it stands in SLOW_TESTS.
function(tempo_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;TESTS;SLOW_TESTS;TEST_DEPS" ${ARGN})
  if(ARG_SOURCES)
    add_library(${name} STATIC ${ARG_SOURCES})
    target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR}/src)
    target_link_libraries(${name} PUBLIC ${ARG_DEPS})
  else()
    add_library(${name} INTERFACE)
    target_include_directories(${name} INTERFACE ${PROJECT_SOURCE_DIR}/src)
    target_link_libraries(${name} INTERFACE ${ARG_DEPS})
  endif()
  if(TEMPO_TESTS)
    foreach(test ${ARG_TESTS})
      tempo_test(${test} LABEL fast DEPS ${name} ${ARG_TEST_DEPS})
    endforeach()
    foreach(test ${ARG_SLOW_TESTS})
      tempo_test(${test} LABEL slow DEPS ${name} ${ARG_TEST_DEPS})
    endforeach()
  endif()
endfunction()

# Tests that CI also runs under sanitizers: what parses bytes from outside, shares memory, or starts
# threads and processes. `ctest -L sanitized` in a build of the target sanitized_tests.
set(TEMPO_SANITIZED_TESTS
  base_test wire_test relay_frame_test relay_client_test relay_server_test relay_test
  ring_link_test workers_test remote_workers_test offload_engine_test executor_test
  onnx_bad_test npy_test load_test api_json_test http_server_test process_test)
add_custom_target(sanitized_tests)

function(tempo_test source)
  cmake_parse_arguments(ARG "" "LABEL;TIMEOUT" "DEPS;LABELS" ${ARGN})
  get_filename_component(target ${source} NAME_WE)
  add_executable(${target} ${source})
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_link_libraries(${target} PRIVATE ${ARG_DEPS} GTest::gtest GTest::gtest_main)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR})
  # Tests spend their time in the libraries; their own code is compiled once and run once.
  target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
  target_compile_definitions(${target} PRIVATE
    TEMPO_SOURCE_DIR="${PROJECT_SOURCE_DIR}" TEMPO_BIN_DIR="${CMAKE_BINARY_DIR}/bin")
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_test(NAME ${target} COMMAND ${target})
  if(target IN_LIST TEMPO_SANITIZED_TESTS)
    add_dependencies(sanitized_tests ${target})
    list(APPEND ARG_LABELS sanitized)
  endif()
  set_tests_properties(${target} PROPERTIES LABELS "${ARG_LABEL};${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
endfunction()
