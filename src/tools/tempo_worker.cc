// tempo-worker: keeps encoded operands and multiplies them. Untrusted.
#include "tools/worker_main.h"

int main(int argc, char** argv) {
  return tempo::worker_main(argc, argv, "tempo-worker", nullptr);
}
