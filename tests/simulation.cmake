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
set_tests_properties(simulation simulation_many PROPERTIES ENVIRONMENT OMP_WAIT_POLICY=passive)
