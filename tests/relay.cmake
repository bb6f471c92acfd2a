# Off-loader's channels and worker's service over loopback, in one process: also under TSan.
tempo_test(relay_test.cc LABEL fast DEPS tempo_offloader tempo_worker)
