# What plans say of memory against what the enclave takes (bench/memory, which has more models).
# Sanitizers have memory of their own.
if(NOT TEMPO_SANITIZE)
  add_test(NAME memory COMMAND ${PROJECT_SOURCE_DIR}/bench/memory
    cnn:32 resnet18:8 mobilenet_v2:16 vit:4 gpt:16)
  set_tests_properties(memory PROPERTIES LABELS slow TIMEOUT 1200
    ENVIRONMENT "OMP_WAIT_POLICY=passive;TEMPO=$<TARGET_FILE:tempo>")
endif()
