// File: client/data_files.h
// --data SPEC: which files of this machine make a data set, and the names under which the enclave
// wants them.
//
//   fashion-mnist[:DIR]                   the four IDX files, compressed (.gz) or not
//   cifar10:DIR                           data_batch_1.bin ... data_batch_5.bin, test_batch.bin
//   npy:X.npy[,Y.npy[,XTEST.npy,YTEST.npy]]
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "wire/job.h"

namespace tempo {

inline constexpr std::string_view kFashionMnistDirectory = "/usr/share/datasets/fashion-mnist";

struct DataFile {
  std::string name;  // one of data_file_names()
  std::string path;
  bool compressed = false;
};

struct DataSource {
  std::string format;  // DataSpec::format
  std::vector<DataFile> files;
};

// Finds the files; test sets may be missing, labels only for kInfer. Errors: kUsage for a SPEC that
// is none, kNotFound names the missing file.
Result<DataSource> find_data(const std::string& spec, JobKind kind);

// Errors of client/input_file.h.
Result<NamedFile> load_data_file(const DataFile& file);

}  // namespace tempo
