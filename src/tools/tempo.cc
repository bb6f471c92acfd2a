// tempo: the client's command line.
#include "tools/command.h"

int main(int argc, char** argv) {
  return tempo::tempo_main(argc, argv);
}
