# Programs that need real off-loaders and workers.

# Ring, off-loader and workers: throughput and round trips.
add_executable(transport_bench transport_bench.cc)
target_link_libraries(transport_bench PRIVATE tempo_ring_link CLI11::CLI11 fmt::fmt)

# CPU time of the enclave: offloaded and inside.
add_executable(offload_bench offload_bench.cc)
target_link_libraries(offload_bench PRIVATE tempo_offload tempo_linear tempo_ring_link CLI11::CLI11
  fmt::fmt)

foreach(program transport_bench offload_bench)
  target_include_directories(${program} PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_definitions(${program} PRIVATE TEMPO_BIN_DIR="${CMAKE_BINARY_DIR}/bin")
  add_dependencies(${program} tempo-offloader tempo-worker)
endforeach()

# The relay beside plain TCP, on this host.
add_executable(relay_bench relay_bench.cc)
target_link_libraries(relay_bench PRIVATE tempo_offloader tempo_worker CLI11::CLI11)
