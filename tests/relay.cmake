# Off-loader's channels and worker's service over loopback, in one process: also under TSan.
tempo_test(relay_test.cc LABEL fast DEPS tempo_offloader tempo_worker)

# Workers over TCP as real processes.
tempo_test(remote_workers_test.cc LABEL fast DEPS tempo_ring_link nlohmann_json::nlohmann_json)
add_dependencies(remote_workers_test tempo tempo-enclave tempo-offloader tempo-worker)
