tempo_library(tempo_worker_main
  SOURCES worker_main.cc
  DEPS tempo_worker tempo_daemon CLI11::CLI11)
target_compile_definitions(tempo_worker_main PRIVATE TEMPO_VERSION="${PROJECT_VERSION}")
add_executable(tempo-worker tempo_worker.cc)
target_link_libraries(tempo-worker PRIVATE tempo_worker_main)
