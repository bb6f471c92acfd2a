// An enclave whose jobs only move bytes, for tests of the command line.
#include "enclave/server/enclave_main.h"
#include "enclave/server/fake_runner.h"

int main(int argc, char** argv) {
  return tempo::enclave_main(argc, argv, [](const tempo::EnclaveOptions&) {
    return std::make_unique<tempo::FakeRunner>(1);
  });
}
