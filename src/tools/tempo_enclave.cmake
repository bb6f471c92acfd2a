# The trusted side.
add_executable(tempo-enclave tempo_enclave.cc)
target_link_libraries(tempo-enclave PRIVATE tempo_enclave_main tempo_job_runner)
