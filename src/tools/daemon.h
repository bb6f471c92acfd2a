// File: tools/daemon.h
// What the long-running programs have in common: how they are stopped, what they print at the end.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "wire/fd.h"

namespace tempo {

// Blocks SIGTERM and SIGINT in this thread (and those it starts later), and returns a descriptor
// that becomes readable when one arrives. SIGPIPE is ignored. Error kInternal.
Result<Fd> stop_signals();

// The kernel sends SIGTERM when the thread that started this program ends. Returns false when that
// has happened already. parent: getppid() at the start of main().
bool exit_with_parent(int parent);

// Log lines go to stderr as "NAME: level: text". level: trace to off, as spdlog spells it.
void log_to_stderr(const std::string& name, const std::string& level);

// Prints the error as one line on stderr; returns the exit code that belongs to it.
int report(const std::string& name, const Error& error);

// "123", "64K", "16M", "2G" (powers of 1024) to bytes. Error kUsage.
Result<std::uint64_t> parse_bytes(const std::string& text);

}  // namespace tempo
