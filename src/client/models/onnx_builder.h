// File: client/models/onnx_builder.h
// Writes an ONNX graph layer by layer. Every method returns the name of its result; `name` is the
// prefix of its parameters and the name of its node.
// Thread safety: one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace tempo {

class OnnxBuilder {
 public:
  OnnxBuilder(const std::string& graph_name, std::uint64_t seed);
  ~OnnxBuilder();
  OnnxBuilder(const OnnxBuilder&) = delete;
  OnnxBuilder& operator=(const OnnxBuilder&) = delete;

  // dims[0] is the batch, written as the symbol N whatever stands there.
  void set_input(const std::string& name, const std::vector<std::int64_t>& dims);
  // Renames `value` to `name` and makes it the graph's output.
  void set_output(const std::string& value, const std::string& name,
                  const std::vector<std::int64_t>& dims);

  struct Conv {
    std::int64_t in = 1;
    std::int64_t out = 1;
    std::int64_t kernel = 1;
    std::int64_t stride = 1;
    std::int64_t pad = 0;
    bool has_bias = false;
  };
  std::string conv(const std::string& name, const std::string& x, const Conv& shape);
  // weight: what all channels are scaled by at first.
  std::string batch_norm(const std::string& name, const std::string& x, std::int64_t channels,
                         float weight = 1);
  std::string layer_norm(const std::string& name, const std::string& x, std::int64_t features);
  // Gemm: x is (N, in).
  std::string linear(const std::string& name, const std::string& x, std::int64_t in,
                     std::int64_t out);
  // MatMul and Add: x is (N, ..., in).
  std::string linear_of_rank(const std::string& name, const std::string& x, std::int64_t in,
                             std::int64_t out);

  // An operator without attributes.
  std::string op(const std::string& type, const std::string& name,
                 const std::vector<std::string>& inputs);
  std::string op_with_ints(const std::string& type, const std::string& name,
                           const std::vector<std::string>& inputs, const std::string& attribute,
                           const std::vector<std::int64_t>& values);
  std::string op_with_int(const std::string& type, const std::string& name,
                          const std::vector<std::string>& inputs, const std::string& attribute,
                          std::int64_t value);
  std::string relu(const std::string& name, const std::string& x);

  std::string ints(const std::string& name, const std::vector<std::int64_t>& values);
  std::string scalar(const std::string& name, float value);
  std::string filled(const std::string& name, const std::vector<std::int64_t>& dims, float value);
  std::string normal(const std::string& name, const std::vector<std::int64_t>& dims,
                     double deviation);
  std::string uniform(const std::string& name, const std::vector<std::int64_t>& dims,
                      double bound);  // in [-bound, bound)

  std::vector<std::byte> finish() const;

 private:
  struct Proto;
  std::unique_ptr<Proto> proto_;
};

}  // namespace tempo
