tempo_library(tempo_lab_worker
  SOURCES device_model.cc replay_device.cc throttled_device.cc worker_hooks.cc
  DEPS tempo_base tempo_worker tempo_client tempo_integrity spdlog::spdlog
  TESTS device_model_test.cc replay_device_test.cc throttled_device_test.cc worker_hooks_test.cc)
if(TEMPO_TESTS)
  target_compile_definitions(device_model_test PRIVATE TEMPO_DEVICES="${CMAKE_SOURCE_DIR}/bench/devices")
endif()
