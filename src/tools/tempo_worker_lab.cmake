# A worker that cheats, dies, stalls and records: for experiments and tests.
add_executable(tempo-worker-lab tempo_worker_lab.cc)
target_link_libraries(tempo-worker-lab PRIVATE tempo_worker_main tempo_lab_worker)
