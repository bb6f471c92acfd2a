#include "client/data_files.h"

#include <unistd.h>

#include <utility>

#include "client/input_file.h"

namespace tempo {
namespace {

Error bad_spec(const std::string& spec) {
  return {ErrorCode::kUsage,
          "not a data set",
          "--data",
          "fashion-mnist[:DIR], cifar10:DIR or npy:X.npy[+X2.npy...],Y.npy[,XTEST.npy,YTEST.npy]",
          spec,
          ""};
}

bool exists(const std::string& path) {
  return ::access(path.c_str(), F_OK) == 0;
}

Result<DataSource> find_fashion_mnist(const std::string& directory, JobKind kind) {
  DataSource source{"fashion-mnist", {}};
  const auto add = [&](const std::string& name) {
    for (const bool compressed : {true, false}) {
      const std::string path = directory + "/" + name + (compressed ? ".gz" : "");
      if (!exists(path)) continue;
      source.files.push_back({name, path, compressed});
      return true;
    }
    return false;
  };
  for (const char* name : {"train-images-idx3-ubyte", "train-labels-idx1-ubyte",
                           "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"}) {
    const std::string_view view(name);
    const bool needed = view.starts_with("train") && kind != JobKind::kInfer;
    if (!add(name) && needed) {
      const bool packaged = directory == kFashionMnistDirectory;
      return Error{
          ErrorCode::kNotFound,
          "a file of the data set is missing",
          directory + "/" + name + ".gz",
          "",
          "",
          packaged ? "install the Debian package dataset-fashion-mnist" : "check the directory"};
    }
  }
  return source;
}

Result<DataSource> find_cifar(std::string directory) {
  // The official archive unpacks to a directory of this name.
  if (exists(directory + "/cifar-10-batches-bin")) directory += "/cifar-10-batches-bin";
  DataSource source{"cifar10", {}};
  for (const char* name : {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                           "data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"}) {
    const std::string path = directory + "/" + name;
    if (exists(path)) source.files.push_back({name, path, false});
  }
  return source;
}

// What stands before the separator, which goes too.
std::string_view take_until(char separator, std::string_view* list) {
  const std::string_view part = list->substr(0, list->find(separator));
  list->remove_prefix(std::min(part.size() + 1, list->size()));
  return part;
}

Result<DataSource> find_npy(const std::string& spec, std::string_view list, JobKind kind) {
  // Two parts of a name, with the number of an input between them.
  constexpr std::pair<const char*, const char*> kNames[] = {
      {"x", ".npy"}, {"y", ".npy"}, {"x", "_test.npy"}, {"y", "_test.npy"}};
  DataSource source{"npy", {}};
  std::size_t parts = 0;
  for (; !list.empty(); ++parts) {
    if (parts == std::size(kNames)) return bad_spec(spec);
    std::string_view part = take_until(',', &list);
    if (part.empty()) return bad_spec(spec);
    const bool are_samples = parts % 2 == 0;
    for (std::size_t input = 1; !part.empty(); ++input) {
      const std::string path(are_samples ? take_until('+', &part) : std::exchange(part, ""));
      if (path.empty() || input > kMaxModelInputs) return bad_spec(spec);
      std::string name(kNames[parts].first);
      if (input > 1) name.append(std::to_string(input));
      source.files.push_back({name.append(kNames[parts].second), path, false});
    }
  }
  if (parts == 2 || parts == 4 || (parts == 1 && kind == JobKind::kInfer)) return source;
  return bad_spec(spec);
}

}  // namespace

Result<DataSource> find_data(const std::string& spec, JobKind kind) {
  const std::size_t colon = std::min(spec.find(':'), spec.size());
  const std::string format = spec.substr(0, colon);
  const std::string rest = colon < spec.size() ? spec.substr(colon + 1) : "";
  Result<DataSource> source = bad_spec(spec);
  if (format == "fashion-mnist") {
    source = find_fashion_mnist(rest.empty() ? std::string(kFashionMnistDirectory) : rest, kind);
  } else if (format == "cifar10" && !rest.empty()) {
    source = find_cifar(rest);
  } else if (format == "npy" && !rest.empty()) {
    source = find_npy(spec, rest, kind);
  }
  if (!source) return source;
  if (source->files.empty()) {
    return Error{ErrorCode::kNotFound, "no files of the data set are there", rest, "", "",
                 "check the directory"};
  }
  for (const DataFile& file : source->files) {
    TEMPO_RETURN_IF_ERROR(check_readable(file.path));
  }
  return source;
}

Result<NamedFile> load_data_file(const DataFile& file) {
  auto bytes = file.compressed ? read_gzip_file(file.path, kMaxDataFileBytes)
                               : read_file(file.path, kMaxDataFileBytes);
  if (!bytes) return bytes.error();
  return NamedFile{file.name, std::move(*bytes)};
}

}  // namespace tempo
