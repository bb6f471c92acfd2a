tempo_library(tempo_daemon
  SOURCES daemon.cc
  DEPS tempo_base tempo_wire spdlog::spdlog)
