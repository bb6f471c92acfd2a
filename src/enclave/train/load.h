// File: enclave/train/load.h
// From the client's files to data sets.
//
//   format         training set                                  test set
//   fashion-mnist  train-images-idx3-ubyte, train-labels-idx1-…  t10k-images-idx3-ubyte, t10k-…
//   cifar10        data_batch_1.bin … data_batch_5.bin (any)     test_batch.bin
//   npy            x.npy, y.npy                                  x_test.npy, y_test.npy
//                  x2.npy … x4.npy (the model's further inputs)  x2_test.npy …
//
// Files are uncompressed. Either set may be missing; so may the labels of idx and npy (enough for
// predictions). npy samples are images (N,C,H,W) or rows of any other rank, of float32, uint8, or
// integers (tokens); labels are integers, one a sample or as many as the model has rows of classes
// for it, or float32 target values.
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
