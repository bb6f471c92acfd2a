tempo_library(tempo_offload
  SOURCES plan.cc step_time.cc dispatcher.cc tile_passes.cc soundness_book.cc offload_engine.cc
          offload_requests.cc offload_answers.cc
  DEPS tempo_linear tempo_schemes tempo_integrity tempo_obfuscation tempo_matrix tempo_base tempo_job
  TESTS offload_engine_test.cc plan_test.cc soundness_book_test.cc step_time_test.cc)
