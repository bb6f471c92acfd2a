# Training across network namespaces, with chaos. Skipped without root.
tempo_test(network_test.cc LABEL slow TIMEOUT 3600 DEPS tempo_base nlohmann_json::nlohmann_json)
add_dependencies(network_test tempo tempo-enclave tempo-enclave-lab tempo-offloader tempo-worker
                 tempo-worker-lab)
set_tests_properties(network_test PROPERTIES SKIP_RETURN_CODE 77
  ENVIRONMENT OMP_WAIT_POLICY=passive)
