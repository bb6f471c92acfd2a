tempo_library(tempo_lab_worker
  SOURCES worker_hooks.cc
  DEPS tempo_base tempo_worker spdlog::spdlog
  TESTS worker_hooks_test.cc)
