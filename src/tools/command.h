// File: tools/command.h
// One subcommand of `tempo`: its flags, and what it does.
#pragma once

#include <memory>

#include "base/error.h"

namespace CLI {
class App;
}

namespace tempo {

class Command {
 public:
  virtual ~Command() = default;
  // Adds the subcommand with its flags; returns it. Called once.
  virtual CLI::App* add_to(CLI::App& tempo) = 0;
  // After the flags were read. Results go to stdout, everything else to stderr.
  virtual Status run() = 0;
};

std::unique_ptr<Command> make_model_command();
std::unique_ptr<Command> make_train_command();
std::unique_ptr<Command> make_infer_command();
std::unique_ptr<Command> make_plan_command();
std::unique_ptr<Command> make_ops_command();
std::unique_ptr<Command> make_doctor_command();

// The whole program; returns its exit code.
int tempo_main(int argc, char** argv);

}  // namespace tempo
