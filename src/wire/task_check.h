// File: wire/task_check.h
// Whether a task from a peer makes sense by itself, before anything is computed from its numbers.
#pragma once

#include <cstdint>

#include "wire/task.h"

namespace tempo {

// Verb and flags are known, the shape is not empty and has at most max_bytes of floats (so that
// payload_bytes() and reply_bytes() cannot overflow), and a product goes somewhere.
bool task_ok(const Task& task, std::uint64_t max_bytes);

}  // namespace tempo
