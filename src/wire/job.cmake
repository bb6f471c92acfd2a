# What client and enclave tell each other over the job API.
tempo_library(tempo_job
  SOURCES job.cc job_json.cc error_json.cc progress.cc tamper.cc deadline_stream.cc
  DEPS tempo_base tempo_wire nlohmann_json::nlohmann_json
  TESTS job_test.cc api_json_test.cc)
