#include "wire/task_check.h"

namespace tempo {

bool task_ok(const Task& task, std::uint64_t max_bytes) {
  constexpr std::uint32_t kOutcomes = kAccumulate | kKeep | kReturn;
  constexpr std::uint32_t kKnownFlags = kTransposeA | kTransposeB | kOutcomes;
  // Cannot overflow: both factors have 32 bits.
  const std::uint64_t elements = std::uint64_t{task.rows} * task.cols;
  const bool shape_ok = elements >= 1 && elements <= max_bytes / sizeof(float);
  switch (task.verb) {
    case Verb::kPut:
      return shape_ok && task.flags == 0;
    case Verb::kMultiply:
      return shape_ok && (task.flags & ~kKnownFlags) == 0 && (task.flags & kOutcomes) != 0;
    case Verb::kDrop:
      return task.flags == 0;
    case Verb::kWatch:
      break;  // not for a worker
  }
  return false;
}

}  // namespace tempo
