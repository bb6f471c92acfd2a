add_executable(tempo-offloader tempo_offloader.cc)
target_link_libraries(tempo-offloader PRIVATE tempo_offloader tempo_daemon CLI11::CLI11)
target_compile_definitions(tempo-offloader PRIVATE TEMPO_VERSION="${PROJECT_VERSION}")
