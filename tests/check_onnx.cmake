# Exported files under the eyes of ONNX's own checker.
add_executable(onnx_files onnx_files.cc)
set_target_properties(onnx_files PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
target_link_libraries(onnx_files PRIVATE tempo_graph tempo_model_zoo)
add_test(NAME check_onnx
  COMMAND /usr/bin/python3 ${CMAKE_CURRENT_LIST_DIR}/check_onnx.py $<TARGET_FILE:onnx_files>
          ${CMAKE_CURRENT_LIST_DIR}/fixtures/onnx)
set_tests_properties(check_onnx PROPERTIES LABELS fast TIMEOUT 300 SKIP_RETURN_CODE 77)
