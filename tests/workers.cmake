# Enclave's end of the ring, off-loader and workers as real processes.
tempo_test(workers_test.cc LABEL fast DEPS tempo_ring_link)
add_dependencies(workers_test tempo-offloader tempo-worker tempo-worker-lab)
