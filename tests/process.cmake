# Whole jobs through the real programs.
tempo_test(process_test.cc LABEL fast TIMEOUT 600 DEPS tempo_graph nlohmann_json::nlohmann_json)
# An off-loader that lies.
add_executable(lying_offloader lying_offloader.cc)
set_target_properties(lying_offloader PROPERTIES
  RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
target_include_directories(lying_offloader PRIVATE ${PROJECT_SOURCE_DIR})
target_link_libraries(lying_offloader PRIVATE tempo_offloader tempo_worker)
add_dependencies(process_test lying_offloader tempo tempo-enclave tempo-enclave-lab tempo-offloader tempo-worker
                 tempo-worker-lab)
if(TEMPO_TESTS)
  target_compile_definitions(process_test PRIVATE
    TEMPO_DEVICES="${CMAKE_SOURCE_DIR}/bench/devices"
    TEMPO_LYING_OFFLOADER="${CMAKE_BINARY_DIR}/tests/lying_offloader")
endif()
