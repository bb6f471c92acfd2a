#include "enclave/nn/time_ledger.h"

#include "base/error.h"

namespace tempo {

std::string_view time_kind_name(TimeKind kind) {
  switch (kind) {
    case TimeKind::kEncode:
      return "encode";
    case TimeKind::kDecode:
      return "decode";
    case TimeKind::kCheck:
      return "check";
    case TimeKind::kKeys:
      return "keys";
    case TimeKind::kNonLinear:
      return "non_linear";
    case TimeKind::kLinearTee:
      return "linear_tee";
    case TimeKind::kUpdate:
      return "update";
    case TimeKind::kWaiting:
      return "waiting";
    case TimeKind::kData:
      return "data";
    case TimeKind::kCount:
      break;
  }
  TEMPO_ASSERT(false && "not a kind of time");
}

}  // namespace tempo
