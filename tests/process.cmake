# Whole jobs through the real programs.
tempo_test(process_test.cc LABEL fast TIMEOUT 600 DEPS tempo_graph nlohmann_json::nlohmann_json)
add_dependencies(process_test tempo tempo-enclave tempo-enclave-lab tempo-offloader tempo-worker
                 tempo-worker-lab)
if(TEMPO_TESTS)
  target_compile_definitions(process_test PRIVATE TEMPO_DEVICES="${CMAKE_SOURCE_DIR}/bench/devices")
endif()
