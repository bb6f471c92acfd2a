// File: enclave/train/load.h
// From the client's files to data sets.
//
//   format         training set                                  test set
//   fashion-mnist  train-images-idx3-ubyte, train-labels-idx1-…  t10k-images-idx3-ubyte, t10k-…
//   cifar10        data_batch_1.bin … data_batch_5.bin (any)     test_batch.bin
//   npy            x.npy, y.npy                                  x_test.npy, y_test.npy
//
// Files are uncompressed. Either set may be missing; so may the labels of idx and npy (enough for
// predictions). npy samples are float32 or uint8, (N,C,H,W) or (N,F); labels are integers (N), or
// float32 target values, (N) or (N,K).
#pragma once

#include <vector>

#include "base/error.h"
#include "enclave/train/dataset.h"
#include "wire/job.h"

namespace tempo {

// Takes the files over: values stay in the bytes that they came in.
// Errors: kUsage for an unknown format; kBadData for an unknown, repeated or missing file and for
// everything that the files' own readers refuse: labels and samples of different number, a label
// that the format does not have, a float32 value that is not finite, test samples of another shape.
Result<Datasets> load_datasets(const DataSpec& spec, std::vector<NamedFile> files);

}  // namespace tempo
