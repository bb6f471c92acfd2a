# The client's command line.
tempo_library(tempo_cli
  SOURCES cmd_doctor.cc cmd_infer.cc cmd_model.cc cmd_ops.cc cmd_plan.cc cmd_train.cc
          job_file_flags.cc job_flags.cc machine.cc run_job.cc summary.cc tempo_main.cc
  DEPS tempo_client tempo_model_zoo tempo_schemes tempo_daemon tempo_ops_json CLI11::CLI11
       fmt::fmt nlohmann_json::nlohmann_json)
target_compile_definitions(tempo_cli PRIVATE TEMPO_VERSION="${PROJECT_VERSION}")

add_executable(tempo tempo.cc)
target_link_libraries(tempo PRIVATE tempo_cli)
