# Tempo against PyTorch (parity/parity.cc): a test for every model of every case.
#
# What waits for the importer, and for what. Delete the line when it is there.
set(parity_waiting)
# Of true size: made when the test runs, which takes python3-torch and minutes.
set(parity_large resnet18 resnet50 vgg11_bn mobilenet_v2 vit vit_b_16 gpt)

add_executable(parity parity/parity.cc parity/parity_case.cc)
set_target_properties(parity PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
target_include_directories(parity PRIVATE ${PROJECT_SOURCE_DIR})
target_link_libraries(parity PRIVATE tempo_job_runner nlohmann_json::nlohmann_json ZLIB::ZLIB)

function(tempo_parity_test name case label timeout)
  set(test parity/${name})
  add_test(NAME ${test} COMMAND ${ARGN})
  set_tests_properties(${test} PROPERTIES LABELS ${label} TIMEOUT ${timeout}
    ENVIRONMENT OMP_WAIT_POLICY=passive)
  if(${case} IN_LIST parity_waiting OR ${name} IN_LIST parity_waiting)
    set_tests_properties(${test} PROPERTIES DISABLED TRUE)
  endif()
endfunction()

set(parity_fixtures ${CMAKE_CURRENT_LIST_DIR}/parity/fixtures)
file(GLOB models CONFIGURE_DEPENDS RELATIVE ${parity_fixtures} ${parity_fixtures}/*/*.onnx)
foreach(model ${models})
  cmake_path(GET model PARENT_PATH case)
  cmake_path(REMOVE_EXTENSION model OUTPUT_VARIABLE name)
  tempo_parity_test(${name} ${case} fast 120
    parity ${parity_fixtures}/${case} ${parity_fixtures}/${model})
endforeach()
foreach(case ${parity_large})
  tempo_parity_test(${case} ${case} slow 3600
    ${CMAKE_COMMAND} -D CASE=${case} -D OUT=${CMAKE_BINARY_DIR}/parity
      -D PROGRAM=$<TARGET_FILE:parity> -P ${CMAKE_CURRENT_LIST_DIR}/parity/large.cmake)
endforeach()
