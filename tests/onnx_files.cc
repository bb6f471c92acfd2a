// Writes the ONNX files that check_onnx.py looks at: every fixture imported and exported again, and
// the models that users start from. Usage: onnx_files FIXTURES_DIR OUTPUT_DIR
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "client/models/model_zoo.h"
#include "enclave/graph/onnx.h"

namespace {

std::vector<std::byte> read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const auto* data = reinterpret_cast<const std::byte*>(text.data());
  return {data, data + text.size()};
}

bool write(const std::filesystem::path& path, const std::vector<std::byte>& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  file.close();
  return file.good();
}

bool round_trip(const std::filesystem::path& in, const std::filesystem::path& out) {
  auto model = tempo::OnnxModel::import(read(in), {});
  if (!model) {
    std::fprintf(stderr, "%s: %s\n", in.c_str(), model.error().one_line().c_str());
    return false;
  }
  auto file = model->export_file();
  if (!file) {
    std::fprintf(stderr, "%s: %s\n", in.c_str(), file.error().one_line().c_str());
    return false;
  }
  return write(out, *file);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const std::filesystem::path out = argv[2];
  std::filesystem::create_directories(out);
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
    if (entry.path().extension() != ".onnx") continue;
    if (!round_trip(entry.path(), out / entry.path().filename())) return 1;
  }
  for (const tempo::ModelKind& kind : tempo::model_kinds()) {
    const std::string name(kind.name);
    const auto file = tempo::build_model(
        {.kind = name, .channels = 3, .height = 32, .width = 32, .classes = 10, .seed = 1});
    if (!file || !write(out / ("zoo_" + name + ".onnx"), *file)) return 1;
    if (name != "vit" &&
        !round_trip(out / ("zoo_" + name + ".onnx"), out / ("zoo_" + name + "_again.onnx"))) {
      return 1;
    }
  }
  return 0;
}
