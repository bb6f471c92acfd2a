# Hostile peers of the ring, of the control sockets and of the workers' arenas.
tempo_fuzzer(fuzz_ring fuzz_ring.cc tempo_ring_link)
tempo_fuzzer(fuzz_frame fuzz_frame.cc tempo_wire)
tempo_fuzzer(fuzz_arena fuzz_arena.cc tempo_offloader tempo_worker)
tempo_fuzzer(fuzz_relay fuzz_relay.cc tempo_offloader tempo_worker)
