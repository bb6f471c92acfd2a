// File: client/event_stream.h
// Server-sent events, from the text of a stream in pieces of any size. Knows "event", "data" and
// comments, which is all that the job API sends.
// Thread safety: one thread.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/error.h"

namespace tempo {

class EventStreamParser {
 public:
  // name is "message" where the stream gives none.
  using OnEvent = std::function<void(const std::string& name, const std::string& data)>;

  // Error kProtocol when an event is longer than 256 KiB.
  Status feed(std::string_view text, const OnEvent& on_event);

 private:
  void take_line(std::string_view line, const OnEvent& on_event);

  std::string line_;
  std::string name_;
  std::string data_;
  bool has_data_ = false;
};

}  // namespace tempo
