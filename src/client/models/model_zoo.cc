#include "client/models/model_zoo.h"

#include <array>

#include "client/models/architectures.h"

namespace tempo {
namespace {

// Bounds that keep every file far below ONNX's 2 GiB.
constexpr std::int64_t kMaxChannels = 1024;
constexpr std::int64_t kMaxPixels = 1024;  // along one side
constexpr std::int64_t kMaxClasses = 100'000;
constexpr std::int64_t kMaxMlpInputs = std::int64_t{1} << 19;

struct Architecture {
  ModelKind kind;
  void (*add)(const ModelRequest& request, OnnxBuilder* b);
};

constexpr std::array kArchitectures = {
    Architecture{{"mlp", "two hidden layers of 512 and 256"}, add_mlp},
    Architecture{{"cnn", "four convolutions, 20 million multiply-adds for 1x28x28"}, add_cnn},
    Architecture{{"resnet20", "residual network of 20 layers for small images"}, add_resnet20},
    Architecture{{"resnet50", "residual network of 50 layers, stem for small images"},
                 add_resnet50},
    Architecture{{"vit", "vision transformer: patches of 4, 8 layers of width 512"}, add_vit},
};

Error refuse(std::string what, std::string expected, std::string got) {
  return Error{.code = ErrorCode::kUsage,
               .what = std::move(what),
               .expected = std::move(expected),
               .got = std::move(got)};
}

Status check_range(const char* what, std::int64_t value, std::int64_t max) {
  if (value >= 1 && value <= max) return {};
  std::string expected("1 to ");
  expected.append(std::to_string(max));
  return refuse(what, std::move(expected), std::to_string(value));
}

Status check(const ModelRequest& request) {
  TEMPO_RETURN_IF_ERROR(check_range("the number of channels", request.channels, kMaxChannels));
  TEMPO_RETURN_IF_ERROR(check_range("the image's height", request.height, kMaxPixels));
  TEMPO_RETURN_IF_ERROR(check_range("the image's width", request.width, kMaxPixels));
  TEMPO_RETURN_IF_ERROR(check_range("the number of classes", request.classes, kMaxClasses));
  if (request.kind == "mlp") {
    TEMPO_RETURN_IF_ERROR(check_range(
        "the number of inputs", request.channels * request.height * request.width, kMaxMlpInputs));
  }
  if (request.kind == "vit" &&
      (request.height % kVitPatch != 0 || request.width % kVitPatch != 0)) {
    std::string got = std::to_string(request.height);
    got.append("x").append(std::to_string(request.width));
    return refuse("the image does not fall into patches", "height and width divisible by 4",
                  std::move(got));
  }
  return {};
}

}  // namespace

std::span<const ModelKind> model_kinds() {
  static const auto kKinds = [] {
    std::array<ModelKind, kArchitectures.size()> kinds;
    for (std::size_t i = 0; i < kinds.size(); ++i) kinds[i] = kArchitectures[i].kind;
    return kinds;
  }();
  return kKinds;
}

Result<std::vector<std::byte>> build_model(const ModelRequest& request) {
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.kind.name != request.kind) continue;
    TEMPO_RETURN_IF_ERROR(check(request));
    OnnxBuilder builder(request.kind, request.seed);
    architecture.add(request, &builder);
    return builder.finish();
  }
  std::string names;
  for (const ModelKind& kind : model_kinds()) {
    if (!names.empty()) names.append(", ");
    names.append(kind.name);
  }
  return refuse("there is no such model", std::move(names), request.kind);
}

}  // namespace tempo
