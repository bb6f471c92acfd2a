# Ring, off-loader and workers: throughput and round trips, with the real programs.
add_executable(transport_bench transport_bench.cc)
target_include_directories(transport_bench PRIVATE ${PROJECT_SOURCE_DIR})
target_link_libraries(transport_bench PRIVATE tempo_ring_link CLI11::CLI11 fmt::fmt)
target_compile_definitions(transport_bench PRIVATE TEMPO_BIN_DIR="${CMAKE_BINARY_DIR}/bin")
add_dependencies(transport_bench tempo-offloader tempo-worker)
