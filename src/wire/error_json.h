// File: wire/error_json.h
// An Error as the job API sends it: {code, what, where, expected, got, next}, code by its name.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"

namespace tempo {

std::string error_to_json(const Error& error);
// Comes from outside: members are cut at 4 KiB each. Nothing when `text` is no such object.
std::optional<Error> error_from_json(std::string_view text);
// kInternal for an unknown name.
ErrorCode error_code_from_name(std::string_view name);

}  // namespace tempo
