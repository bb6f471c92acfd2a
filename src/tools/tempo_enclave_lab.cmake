# An enclave with injected randomness and plaintext export: for experiments and tests.
add_executable(tempo-enclave-lab tempo_enclave_lab.cc)
target_link_libraries(tempo-enclave-lab PRIVATE tempo_enclave_main tempo_job_runner tempo_lab_enclave)
