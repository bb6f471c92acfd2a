#include "base/error.h"

#include <cstdio>
#include <cstdlib>

namespace tempo {
namespace {

std::string printable(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    out.push_back(byte < 0x20 || byte == 0x7f ? ' ' : c);
  }
  return out;
}

}  // namespace

std::string_view error_code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInternal:
      return "internal";
    case ErrorCode::kUsage:
      return "usage";
    case ErrorCode::kNotFound:
      return "not_found";
    case ErrorCode::kBadModel:
      return "bad_model";
    case ErrorCode::kUnsupportedModel:
      return "unsupported_model";
    case ErrorCode::kBadData:
      return "bad_data";
    case ErrorCode::kNoWorker:
      return "no_worker";
    case ErrorCode::kOutOfMemory:
      return "out_of_memory";
    case ErrorCode::kTampered:
      return "tampered";
    case ErrorCode::kInterrupted:
      return "interrupted";
    case ErrorCode::kProtocol:
      return "protocol";
    case ErrorCode::kDiverged:
      return "diverged";
    case ErrorCode::kIo:
      return "io";
  }
  return "internal";
}

std::string Error::one_line() const {
  std::string line = printable(what);
  if (!where.empty()) line += "; where: " + printable(where);
  if (!expected.empty()) line += "; expected " + printable(expected);
  if (!got.empty()) line += (expected.empty() ? "; got " : ", got ") + printable(got);
  if (!next_step.empty()) line += "; next: " + printable(next_step);
  return line;
}

void assertion_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "tempo: internal error: %s does not hold at %s:%d\n", condition, file, line);
  std::abort();
}

}  // namespace tempo
