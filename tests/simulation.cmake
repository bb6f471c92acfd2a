# The offload engine against workers, a network and an off-loader that fail and lie, from one seed a
# run.
add_executable(simulation simulation/simulation.cc simulation/simulated_link.cc)
set_target_properties(simulation PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
target_include_directories(simulation PRIVATE ${PROJECT_SOURCE_DIR})
target_link_libraries(simulation PRIVATE tempo_offload tempo_offloader tempo_worker)

add_test(NAME simulation COMMAND simulation 1 500)
set_tests_properties(simulation PROPERTIES LABELS fast TIMEOUT 120)
add_test(NAME simulation_many COMMAND simulation 1000 20000)
set_tests_properties(simulation_many PROPERTIES LABELS slow TIMEOUT 1800)
# Under sanitizers a few of them; see TEMPO_SANITIZED_TESTS.
if(TEMPO_SANITIZE)
  add_dependencies(sanitized_tests simulation)
  add_test(NAME simulation_sanitized COMMAND simulation 1 50)
  set_tests_properties(simulation_sanitized PROPERTIES LABELS sanitized TIMEOUT 600
                       ENVIRONMENT OMP_WAIT_POLICY=passive)
endif()
set_tests_properties(simulation simulation_many PROPERTIES ENVIRONMENT OMP_WAIT_POLICY=passive)
