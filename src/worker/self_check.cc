#include "worker/self_check.h"

#include <cmath>
#include <cstdint>
#include <random>
#include <string>

#include "base/buffer.h"

namespace tempo {
namespace {

constexpr std::uint32_t kRows = 37, kInner = 29, kCols = 23;
// Of the sum of the magnitudes: float32 with any order of summation stays far below.
constexpr double kTolerance = 1e-5;

struct Operand {
  std::uint32_t rows, cols;
  AlignedBuffer<float> values;
  Transpose transpose;

  float at(std::uint32_t row, std::uint32_t col) const {  // of op(operand)
    return transpose == Transpose::kYes ? values[std::size_t{col} * cols + row]
                                        : values[std::size_t{row} * cols + col];
  }
};

Operand make_operand(std::uint32_t rows, std::uint32_t cols, Transpose transpose,
                     std::mt19937& random) {
  if (transpose == Transpose::kYes) std::swap(rows, cols);
  Operand operand{rows, cols, AlignedBuffer<float>(std::size_t{rows} * cols), transpose};
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (float& value : operand.values.span()) value = uniform(random);
  return operand;
}

Status check_product(Device& device, Transpose ta, Transpose tb, std::mt19937& random) {
  const Operand a = make_operand(kRows, kInner, ta, random);
  const Operand b = make_operand(kInner, kCols, tb, random);
  const auto held_a = device.allocate(a.rows, a.cols);
  const auto held_b = device.allocate(b.rows, b.cols);
  if (!held_a || !held_b) {
    return Error{ErrorCode::kOutOfMemory, "the device has no memory", device.name(), "", "", ""};
  }
  device.upload(reinterpret_cast<const std::byte*>(a.values.data()), *held_a);
  device.upload(reinterpret_cast<const std::byte*>(b.values.data()), *held_b);
  AlignedBuffer<float> out(std::size_t{kRows} * kCols);
  if (!device.multiply_to_host(*held_a, ta, *held_b, tb,
                               reinterpret_cast<std::byte*>(out.data()))) {
    return Error{ErrorCode::kOutOfMemory, "the device has no memory", device.name(), "", "", ""};
  }
  for (std::uint32_t r = 0; r < kRows; ++r) {
    for (std::uint32_t c = 0; c < kCols; ++c) {
      double sum = 0, magnitude = 0;
      for (std::uint32_t i = 0; i < kInner; ++i) {
        const double term = static_cast<double>(a.at(r, i)) * b.at(i, c);
        sum += term;
        magnitude += std::abs(term);
      }
      const double got = out[std::size_t{r} * kCols + c];
      if (std::abs(got - sum) <= kTolerance * magnitude) continue;  // NaN does not pass
      return Error{ErrorCode::kInternal, "the device computes wrong products",
                   device.name(),        std::to_string(sum),
                   std::to_string(got),  "do not use this device"};
    }
  }
  return {};
}

}  // namespace

Status check_device(Device& device) {
  std::mt19937 random(1);
  for (const Transpose ta : {Transpose::kNo, Transpose::kYes}) {
    for (const Transpose tb : {Transpose::kNo, Transpose::kYes}) {
      TEMPO_RETURN_IF_ERROR(check_product(device, ta, tb, random));
    }
  }
  return {};
}

}  // namespace tempo
