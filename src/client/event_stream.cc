#include "client/event_stream.h"

namespace tempo {

Status EventStreamParser::feed(std::string_view text, const OnEvent& on_event) {
  constexpr std::size_t kMaxEventBytes = std::size_t{256} * 1024;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    line_.append(text.substr(0, end));
    if (line_.size() + data_.size() + name_.size() > kMaxEventBytes) {
      return Error{ErrorCode::kProtocol, "an event of the enclave is too long", "", "", "", ""};
    }
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
    if (line_.ends_with('\r')) line_.pop_back();
    take_line(line_, on_event);
    line_.clear();
  }
  return {};
}

void EventStreamParser::take_line(std::string_view line, const OnEvent& on_event) {
  if (line.empty()) {
    if (has_data_) on_event(name_.empty() ? "message" : name_, data_);
    name_.clear();
    data_.clear();
    has_data_ = false;
    return;
  }
  const std::size_t colon = line.find(':');
  if (colon == 0) return;  // a comment
  const std::string_view field = line.substr(0, colon);
  std::string_view value = colon == std::string_view::npos ? "" : line.substr(colon + 1);
  if (value.starts_with(' ')) value.remove_prefix(1);
  if (field == "event") name_ = value;
  if (field == "data") {
    if (has_data_) data_ += '\n';
    data_ += value;
    has_data_ = true;
  }
}

}  // namespace tempo
