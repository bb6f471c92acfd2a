# Training on mixes of workers. Only one of them is quick.
tempo_test(worker_mix_test.cc LABEL fast DEPS tempo_base nlohmann_json::nlohmann_json)
add_dependencies(worker_mix_test tempo tempo-enclave tempo-enclave-lab tempo-offloader tempo-worker
                 tempo-worker-lab)
set(quick_mix "WorkerMixTest.*")
set_tests_properties(worker_mix_test PROPERTIES
  ENVIRONMENT "GTEST_FILTER=${quick_mix};OMP_WAIT_POLICY=passive")
add_test(NAME worker_mix_every COMMAND worker_mix_test)
set_tests_properties(worker_mix_every PROPERTIES LABELS slow TIMEOUT 3600
  ENVIRONMENT "GTEST_FILTER=-${quick_mix};OMP_WAIT_POLICY=passive")
