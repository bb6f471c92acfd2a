// What a client reads from an enclave: errors, progress, and the event stream around them.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "client/event_stream.h"
#include "client/job_file.h"
#include "wire/error_json.h"
#include "wire/progress.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  const auto use = [](std::string_view json) {
    if (const auto error = tempo::error_from_json(json)) (void)tempo::error_to_json(*error);
    if (const auto progress = tempo::progress_from_json(json)) {
      (void)tempo::progress_to_json(*progress);
    }
  };
  use(text);
  (void)tempo::parse_job_file(text, "job.toml").ok();
  // In two pieces, cut where the first byte says.
  tempo::EventStreamParser parser;
  const std::size_t cut = text.empty() ? 0 : data[0] % text.size();
  for (const std::string_view piece : {text.substr(0, cut), text.substr(cut)}) {
    (void)parser.feed(piece, [&](const std::string&, const std::string& value) { use(value); })
        .ok();
  }
  return 0;
}
