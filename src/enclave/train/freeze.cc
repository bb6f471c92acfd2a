#include "enclave/train/freeze.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace tempo {
namespace {

// What patterns may match, and the parameters that it stands for.
struct Name {
  std::string_view text;
  std::vector<TensorId> parameters;
};

bool is_parameter(const Graph& graph, TensorId id) {
  return id != kNoTensor &&
         graph.tensors[static_cast<std::size_t>(id)].kind == TensorKind::kParameter;
}

std::vector<Name> names_of(const Graph& graph) {
  std::vector<Name> names;
  for (std::size_t i = 0; i < graph.tensors.size(); ++i) {
    const auto id = static_cast<TensorId>(i);
    if (is_parameter(graph, id)) names.push_back({graph.tensors[i].name, {id}});
  }
  for (const Node& node : graph.nodes) {
    Name name{node.name, {}};
    for (const TensorId id : node.inputs) {
      if (is_parameter(graph, id)) name.parameters.push_back(id);
    }
    if (!name.parameters.empty()) names.push_back(std::move(name));
  }
  return names;
}

// How many bytes have to be inserted, deleted or replaced for the pattern to match.
std::size_t glob_distance(std::string_view pattern, std::string_view text) {
  std::vector<std::size_t> row(text.size() + 1);  // of the pattern so far, to each start of text
  for (std::size_t j = 0; j < row.size(); ++j) row[j] = j;
  for (const char p : pattern) {
    std::size_t diagonal = row[0];
    if (p != '*') ++row[0];
    for (std::size_t j = 1; j < row.size(); ++j) {
      const std::size_t above = row[j];
      const bool fits = p == '?' || p == text[j - 1];
      row[j] = p == '*' ? std::min(above, row[j - 1])
                        : std::min({above + 1, row[j - 1] + 1, diagonal + (fits ? 0 : 1)});
      diagonal = above;
    }
  }
  return row.back();
}

std::string closest(const std::vector<Name>& names, std::string_view pattern) {
  constexpr std::size_t kShown = 3;
  constexpr std::size_t kLooksAt = 4096;  // names, and bytes of one that are compared
  constexpr std::size_t kLooksAtBytes = 128;
  std::vector<std::pair<std::size_t, std::string_view>> candidates;
  for (const Name& name : names) {
    if (candidates.size() == kLooksAt) break;
    candidates.emplace_back(glob_distance(pattern, name.text.substr(0, kLooksAtBytes)), name.text);
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::string text;
  for (std::size_t i = 0; i < std::min(kShown, candidates.size()); ++i) {
    text += (i == 0 ? "" : ", ") + std::string(candidates[i].second.substr(0, kLooksAtBytes));
  }
  return text;
}

// The parameters that any of the patterns names, by TensorId.
Result<std::vector<bool>> named_by(const std::vector<std::string>& patterns, const char* key,
                                   const Graph& graph, const std::vector<Name>& names) {
  std::vector<bool> named(graph.tensors.size(), false);
  for (const std::string& pattern : patterns) {
    bool matches = false;
    for (const Name& name : names) {
      if (!glob_matches(pattern, name.text)) continue;
      matches = true;
      for (const TensorId id : name.parameters) named[static_cast<std::size_t>(id)] = true;
    }
    if (!matches) {
      return Error{ErrorCode::kUsage,
                   "the pattern matches no parameter",
                   key,
                   "for instance " + closest(names, pattern),
                   pattern,
                   "patterns are globs on the names of parameters and of the nodes that read them"};
    }
  }
  return named;
}

Status freeze_statistics(Graph& graph, const std::vector<bool>& frozen) {
  bool any = false;
  for (const Node& node : graph.nodes) {
    if (node.op_type != "BatchNormalization") continue;
    const auto at = [&node](std::size_t i) { return static_cast<std::size_t>(node.inputs[i]); };
    if (!frozen[at(1)] || !frozen[at(2)]) continue;
    any = true;
    for (const std::size_t i : {3, 4}) graph.tensors[at(i)].kind = TensorKind::kConstant;
  }
  if (any) return {};
  return Error{ErrorCode::kUsage,
               "no BatchNormalization is frozen",
               "freeze_statistics",
               "one whose scale and bias are frozen",
               "",
               "freeze it with --freeze, or leave --freeze-statistics out"};
}

}  // namespace

// Each star takes as little as it can; only the last one seen is ever reconsidered.
bool glob_matches(std::string_view pattern, std::string_view text) {
  std::size_t p = 0;
  std::size_t t = 0;
  std::size_t star = std::string_view::npos;
  std::size_t taken = 0;  // where the text behind that star goes on
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      taken = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++taken;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

Result<std::int64_t> freeze_parameters(Graph& graph, const FreezeSpec& spec) {
  const std::vector<Name> names = names_of(graph);
  const auto freeze = named_by(spec.freeze, "freeze", graph, names);
  if (!freeze.ok()) return freeze.error();
  const auto train = named_by(spec.train_only, "train_only", graph, names);
  if (!train.ok()) return train.error();
  std::vector<bool> frozen(graph.tensors.size(), false);
  std::int64_t values = 0;
  bool is_any_left = false;
  for (std::size_t i = 0; i < graph.tensors.size(); ++i) {
    Tensor& tensor = graph.tensors[i];
    if (tensor.kind != TensorKind::kParameter) continue;
    frozen[i] = (*freeze)[i] || (!spec.train_only.empty() && !(*train)[i]);
    is_any_left = is_any_left || !frozen[i];
    if (!frozen[i]) continue;
    tensor.kind = TensorKind::kConstant;
    values += static_cast<std::int64_t>(tensor.floats.size());
  }
  if (!is_any_left) {
    return Error{ErrorCode::kUsage,     "nothing is left to train",          "",
                 "a trained parameter", "all are frozen, or there are none", "freeze fewer"};
  }
  if (spec.statistics) TEMPO_RETURN_IF_ERROR(freeze_statistics(graph, frozen));
  return values;
}

}  // namespace tempo
