// tempo model: an initialised model to start from.
#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>

#include "client/models/model_zoo.h"
#include "client/output_file.h"
#include "tools/command.h"

namespace tempo {
namespace {

// "3x32x32" to channels, height, width.
Status parse_image(const std::string& text, ModelRequest* request) {
  const char* at = text.data();
  const char* const end = text.data() + text.size();
  for (std::int64_t* value : {&request->channels, &request->height, &request->width}) {
    if (value != &request->channels && at != end && *at == 'x') ++at;
    const auto [rest, failure] = std::from_chars(at, end, *value);
    if (failure != std::errc() || *value <= 0) at = nullptr;
    if (at == nullptr) break;
    at = rest;
  }
  if (at == end && !text.empty()) return {};
  return Error{ErrorCode::kUsage,
               "not the size of an image",
               "--image",
               "CHANNELSxHEIGHTxWIDTH, such as 3x32x32",
               text,
               ""};
}

class ModelCommand final : public Command {
 public:
  CLI::App* add_to(CLI::App& tempo) override {
    CLI::App* app = tempo.add_subcommand("model", "Write an initialised model to start from.");
    std::string help = "the architecture:";
    for (const ModelKind& kind : model_kinds()) {
      help += "\n" + std::string(kind.name) + ": " + std::string(kind.description);
    }
    app->add_option("kind", request_.kind, help)->required();
    app->add_option("--image", image_, "size of a sample, CHANNELSxHEIGHTxWIDTH")->required();
    app->add_option("--classes", request_.classes, "number of classes")->required();
    app->add_option("--seed", request_.seed, "of the initial weights")->capture_default_str();
    app->add_option("-o,--output", output_, "where the model goes, an ONNX file")->required();
    return app;
  }

  Status run() override {
    TEMPO_RETURN_IF_ERROR(parse_image(image_, &request_));
    TEMPO_RETURN_IF_ERROR(check_writable(output_));
    const auto model = build_model(request_);
    if (!model) return model.error();
    TEMPO_RETURN_IF_ERROR(
        write_file(output_, {reinterpret_cast<const char*>(model->data()), model->size()}));
    std::printf("%s: %s for %s images and %lld classes, %zu bytes\n", output_.c_str(),
                request_.kind.c_str(), image_.c_str(), static_cast<long long>(request_.classes),
                model->size());
    return {};
  }

 private:
  ModelRequest request_;
  std::string image_;
  std::string output_;
};

}  // namespace

std::unique_ptr<Command> make_model_command() {
  return std::make_unique<ModelCommand>();
}

}  // namespace tempo
