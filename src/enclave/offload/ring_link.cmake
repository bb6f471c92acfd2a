# The ring's end inside the enclave.
tempo_library(tempo_ring_link
  SOURCES ring_link.cc
  DEPS tempo_base tempo_wire
  TESTS ring_link_test.cc)
