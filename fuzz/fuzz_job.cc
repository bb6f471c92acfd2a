// The job's description, as a client of the job API sends it.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "wire/job.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto spec = tempo::job_from_json({reinterpret_cast<const char*>(data), size});
  if (!spec) return 0;
  // What is accepted can be written, is accepted again, and stays the same.
  const std::string json = tempo::job_to_json(*spec);
  const auto again = tempo::job_from_json(json);
  TEMPO_ASSERT(again.ok() && tempo::job_to_json(*again) == json);
  return 0;
}
