#include "enclave/graph/onnx_order.h"

#include <onnx/onnx_pb.h>

#include <functional>
#include <queue>

namespace tempo {
namespace {

Error bad_value(std::string what, const std::string& name) {
  return Error{.code = ErrorCode::kBadModel, .what = std::move(what), .where = name};
}

void make_node_names(const onnx::GraphProto& graph, OnnxOrder* out) {
  std::vector<std::string>& names = out->node_names;
  std::unordered_set<std::string>& taken = out->taken_node_names;
  names.resize(static_cast<std::size_t>(graph.node_size()));
  // Names from the file go first, so that a made-up name never takes one away.
  for (int i = 0; i < graph.node_size(); ++i) {
    const std::string& name = graph.node(i).name();
    if (!name.empty() && taken.insert(name).second) names[static_cast<std::size_t>(i)] = name;
  }
  for (int i = 0; i < graph.node_size(); ++i) {
    std::string& name = names[static_cast<std::size_t>(i)];
    if (!name.empty()) continue;
    const onnx::NodeProto& node = graph.node(i);
    name = (node.name().empty() ? node.op_type() : node.name()) + "_" + std::to_string(i);
    while (!taken.insert(name).second) name.push_back('_');
  }
}

Status collect_definitions(const onnx::GraphProto& graph, OnnxOrder* out) {
  auto& values = out->values;
  for (int i = 0; i < graph.initializer_size(); ++i) {
    const std::string& name = graph.initializer(i).name();
    if (name.empty()) return bad_value("an initializer has no name", std::to_string(i));
    ValueUse& use = values[name];
    if (use.initializer >= 0) return bad_value("two initializers have the same name", name);
    use.initializer = i;
  }
  for (int i = 0; i < graph.input_size(); ++i) {
    const std::string& name = graph.input(i).name();
    if (name.empty()) return bad_value("a graph input has no name", std::to_string(i));
    ValueUse& use = values[name];
    if (use.input >= 0) return bad_value("two graph inputs have the same name", name);
    use.input = i;
  }
  for (int i = 0; i < graph.node_size(); ++i) {
    for (const std::string& name : graph.node(i).output()) {
      if (name.empty()) continue;
      ValueUse& use = values[name];
      if (use.initializer >= 0 || use.input >= 0 || use.node >= 0) {
        return bad_value("a value is made twice", name);
      }
      use.node = i;
    }
  }
  return {};
}

Status count_readers(const onnx::GraphProto& graph, OnnxOrder* out) {
  for (int i = 0; i < graph.node_size(); ++i) {
    for (const std::string& name : graph.node(i).input()) {
      if (name.empty()) continue;
      const auto found = out->values.find(name);
      if (found == out->values.end()) {
        return Error{.code = ErrorCode::kBadModel,
                     .what = "a node reads a value that nothing makes",
                     .where = out->node_names[static_cast<std::size_t>(i)],
                     .got = name};
      }
      ++found->second.readers;
    }
  }
  for (const onnx::ValueInfoProto& output : graph.output()) {
    const auto found = out->values.find(output.name());
    if (found == out->values.end()) {
      return bad_value("nothing makes a graph output", output.name());
    }
    ++found->second.readers;
  }
  return {};
}

// Kahn's algorithm, smallest position first, so that an ordered file stays as it is.
Status sort_nodes(const onnx::GraphProto& graph, OnnxOrder* out) {
  const auto count = static_cast<std::size_t>(graph.node_size());
  std::vector<int> waits_for(count, 0);
  std::vector<std::vector<int>> feeds(count);
  std::priority_queue<int, std::vector<int>, std::greater<>> ready;
  for (int i = 0; i < graph.node_size(); ++i) {
    for (const std::string& name : graph.node(i).input()) {
      if (name.empty()) continue;
      const int maker = out->values.at(name).node;
      if (maker < 0) continue;
      feeds[static_cast<std::size_t>(maker)].push_back(i);
      ++waits_for[static_cast<std::size_t>(i)];
    }
    if (waits_for[static_cast<std::size_t>(i)] == 0) ready.push(i);
  }
  while (!ready.empty()) {
    const int node = ready.top();
    ready.pop();
    out->order.push_back(node);
    for (const int reader : feeds[static_cast<std::size_t>(node)]) {
      if (--waits_for[static_cast<std::size_t>(reader)] == 0) ready.push(reader);
    }
  }
  if (out->order.size() == count) return {};
  std::size_t stuck = 0;
  while (waits_for[stuck] == 0) ++stuck;
  return bad_value("the graph has a cycle", out->node_names[stuck]);
}

}  // namespace

Result<OnnxOrder> order_nodes(const onnx::GraphProto& graph) {
  OnnxOrder out;
  make_node_names(graph, &out);
  TEMPO_RETURN_IF_ERROR(collect_definitions(graph, &out));
  TEMPO_RETURN_IF_ERROR(count_readers(graph, &out));
  TEMPO_RETURN_IF_ERROR(sort_nodes(graph, &out));
  return out;
}

}  // namespace tempo
