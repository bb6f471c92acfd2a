// File: client/output_file.h
// Result files: refused before the work starts when they cannot be written, and replaced as a whole
// at the end, so that nobody ever sees half a model.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"

namespace tempo {

// Leaves nothing behind. Error kIo: the directory is missing or not writable, the path is a
// directory.
Status check_writable(const std::string& path);

// Writes a file beside `path`, then renames it. A path that is there and is no regular file
// (/dev/stdout, a pipe) is written to directly. Error kIo.
Status write_file(const std::string& path, std::string_view content);

}  // namespace tempo
