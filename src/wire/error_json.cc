#include "wire/error_json.h"

#include <nlohmann/json.hpp>

namespace tempo {
namespace {

using Json = nlohmann::json;

std::string text_member(const Json& json, const char* key) {
  constexpr std::size_t kMaxBytes = 4096;
  const auto found = json.find(key);
  if (found == json.end() || !found->is_string()) return "";
  return found->get<std::string>().substr(0, kMaxBytes);
}

}  // namespace

ErrorCode error_code_from_name(std::string_view name) {
  for (int code = 1; code <= static_cast<int>(ErrorCode::kIo); ++code) {
    if (error_code_name(static_cast<ErrorCode>(code)) == name) return static_cast<ErrorCode>(code);
  }
  return ErrorCode::kInternal;
}

std::string error_to_json(const Error& error) {
  const Json json = {
      {"code", error_code_name(error.code)}, {"what", error.what}, {"where", error.where},
      {"expected", error.expected},          {"got", error.got},   {"next", error.next_step}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::optional<Error> error_from_json(std::string_view text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("code") || !json.contains("what")) return std::nullopt;
  return Error{error_code_from_name(text_member(json, "code")),
               text_member(json, "what"),
               text_member(json, "where"),
               text_member(json, "expected"),
               text_member(json, "got"),
               text_member(json, "next")};
}

}  // namespace tempo
