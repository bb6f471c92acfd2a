// File: tools/worker_main.h
// The worker program, but for what may be added to it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "wire/worker_address.h"
#include "worker/device.h"
#include "worker/hooks.h"

namespace CLI {
class App;
}

namespace tempo {

class WorkerExtension {
 public:
  virtual ~WorkerExtension() = default;
  virtual void add_flags(CLI::App& app) = 0;
  // Devices besides the product's, as --device names them.
  virtual std::vector<std::string> devices() const { return {}; }
  // After the flags were read: one of them, for these addresses. threads: of --threads.
  virtual Result<std::unique_ptr<Device>> make_device(const std::string& name, int threads,
                                                      const std::vector<WorkerAddress>& listen) = 0;
  // After the flags were read.
  virtual Result<std::unique_ptr<WorkerHooks>> make_hooks() = 0;
};

// main() of a worker called `name`. extension: null for none. Returns the exit code.
int worker_main(int argc, char** argv, const char* name, WorkerExtension* extension);

}  // namespace tempo
