# The relay's connections: TCP and TLS.
tempo_library(tempo_relay
  SOURCES relay_pump.cc tls.cc
  DEPS tempo_base tempo_wire OpenSSL::SSL Threads::Threads)
