#include "enclave/schemes/scheme.h"

#include <string>

namespace tempo {

Result<Scheme> parse_scheme(std::string_view name) {
  for (const Scheme scheme : {Scheme::kLocal, Scheme::kPlain, Scheme::kTempo}) {
    if (name == scheme_name(scheme)) return scheme;
  }
  return Error{ErrorCode::kUsage,       "unknown scheme",  "scheme",
               "local, plain or tempo", std::string(name), "choose one of them"};
}

std::string_view scheme_name(Scheme scheme) {
  switch (scheme) {
    case Scheme::kLocal:
      return "local";
    case Scheme::kPlain:
      return "plain";
    case Scheme::kTempo:
      return "tempo";
  }
  return "local";
}

std::string_view scheme_statement(Scheme scheme) {
  switch (scheme) {
    case Scheme::kLocal:
      return "everything stays in the enclave";
    case Scheme::kPlain:
      return "no protection of confidentiality; results are verified";
    case Scheme::kTempo:
      return "obfuscation only: hides values from someone who merely looks; a worker that records "
             "its traffic can recover model, inputs and labels. Results are verified";
  }
  return "";
}

OperatorKeys draw_keys(Scheme scheme, RandomSource& random, const CoefficientSpace& space,
                       std::size_t n, std::size_t p, const std::vector<std::size_t>& m_slices) {
  const CoefficientSpace ones{1, false};
  const auto axis = [&](std::size_t size) {
    return AxisKey::generate(random, size, scheme == Scheme::kTempo ? space : ones);
  };
  OperatorKeys keys{axis(n), axis(p), {}};
  keys.m.reserve(m_slices.size());
  for (const std::size_t size : m_slices) keys.m.push_back(axis(size));
  return keys;
}

}  // namespace tempo
