# The command line against an enclave that only moves bytes.
add_executable(fake_enclave fake_enclave.cc)
set_target_properties(fake_enclave PROPERTIES
  RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
target_link_libraries(fake_enclave PRIVATE tempo_enclave_main)

tempo_test(cli_test.cc LABEL fast DEPS tempo_client nlohmann_json::nlohmann_json)
add_dependencies(cli_test tempo fake_enclave)
target_compile_definitions(cli_test PRIVATE
  TEMPO_FAKE_ENCLAVE="${CMAKE_BINARY_DIR}/tests/fake_enclave")
