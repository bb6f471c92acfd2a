// How often the check catches a changed element, and how often it refuses an honest product: a
// Markdown table on standard output. Products are float32 GEMMs of encoded operands; one element of
// the decoded result is off by e times the result's rms, in the column that the keys make hardest
// to see, in a random row.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "enclave/integrity/check_rig.h"
#include "enclave/integrity/freivalds.h"
#include "enclave/integrity/soundness.h"
#include "enclave/obfuscation/seeded_random.h"
#include "matrix/gemm.h"

namespace tempo {
namespace {

constexpr double kSizes[] = {1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1};
constexpr int kRounds[] = {1, 2, 4};
constexpr CheckDistribution kDistributions[] = {
    CheckDistribution::kUniform, CheckDistribution::kGaussian, CheckDistribution::kBinary};
constexpr int kKeysPerRow = 4;  // fresh keys and data so often a line

struct Case {
  const char* name;
  Product product;
  LayerShape shape;
};

constexpr Case kCases[] = {
    {"Z, 64 x 64, n = 27", Product::kForward, {64, 27, 64}},
    {"Z, 64 x 64, n = 576", Product::kForward, {64, 576, 64}},
    {"Z, 32 x 512, n = 1152", Product::kForward, {512, 1152, 32}},
    {"dX, 32 x 576, m = 64", Product::kInputGradient, {64, 576, 32}},
    {"dW, 16 x 144, p = 2048", Product::kWeightGradient, {16, 144, 2048}},
};

struct Cell {
  int caught = 0;
  int trials = 0;
};

// Shares of tampers caught, for all sizes, with one distribution and number of rounds.
std::vector<Cell> measure(SeededRandom& random, const Case& c, CheckDistribution distribution,
                          int rounds, int trials, double& tolerance_over_rms) {
  std::vector<Cell> cells(std::size(kSizes));
  tolerance_over_rms = 0;
  for (int key = 0; key < kKeysPerRow; ++key) {
    CheckRig rig(random, c.shape, DataKind::kRectified, {1024, false});
    const double rms = rig.rms(c.product);
    const std::size_t column = rig.hardest_column(c.product);
    for (std::size_t s = 0; s < cells.size(); ++s) {
      for (int trial = key; trial < trials; trial += kKeysPerRow) {
        const std::size_t row =
            random_below(random, static_cast<std::uint32_t>(rig.rows(c.product)));
        float& element = rig.element(c.product, row, column);
        const float honest = element;
        const double sign = random_below(random, 2) == 0 ? 1 : -1;
        element += static_cast<float>(sign * kSizes[s] * rms /
                                      rig.decoding_factor(c.product, row, column));
        const RowCheck check = rig.check(c.product, rounds, distribution, random, row)[row];
        element = honest;
        cells[s].caught += check.accepted ? 0 : 1;
        cells[s].trials += 1;
        tolerance_over_rms += check.tolerance / rms / (trials * cells.size());
      }
    }
  }
  return cells;
}

void print_detection(SeededRandom& random, int trials) {
  std::printf("Tampers caught, of %d a cell, by size e in units of the result's rms:\n\n", trials);
  std::printf("| product | vectors | rounds | tolerance / rms |");
  for (const double size : kSizes) std::printf(" %.0e |", size);
  std::printf("\n|---|---|---|---|");
  for (std::size_t s = 0; s < std::size(kSizes); ++s) std::printf("---|");
  std::printf("\n");
  for (const Case& c : kCases) {
    for (const CheckDistribution distribution : kDistributions) {
      for (const int rounds : kRounds) {
        double tolerance = 0;
        const std::vector<Cell> cells = measure(random, c, distribution, rounds, trials, tolerance);
        std::printf("| %s | %s | %d | %.1e |", c.name,
                    std::string(check_distribution_name(distribution)).c_str(), rounds, tolerance);
        for (const Cell& cell : cells) {
          std::printf(" %.4g |", static_cast<double>(cell.caught) / cell.trials);
        }
        std::printf("\n");
        std::fflush(stdout);
      }
    }
  }
}

// Every kind of data, shapes up to 100 a side, every range of coefficients.
void print_false_alarms(SeededRandom& random, int products, CheckDistribution distribution) {
  constexpr std::uint32_t kRanges[] = {1, 1000, 1024, 65536};
  int done = 0;
  int refused = 0;
  std::int64_t rows = 0;
  double worst = 0;
  while (done < products) {
    const auto side = [&] { return static_cast<std::size_t>(random.between(1, 100)); };
    const CoefficientSpace space{kRanges[random.between(0, 3)], random.between(0, 1) == 1};
    const CheckRig rig(random, {side(), side(), side()},
                       static_cast<DataKind>(random.between(0, kDataKinds - 1)), space);
    for (const Product product : kProducts) {
      bool passed = true;
      for (const RowCheck& row : rig.check(product, 4, distribution, random)) {
        passed = passed && row.accepted;
        worst = std::max(worst, row.worst / row.tolerance);
        ++rows;
      }
      refused += passed ? 0 : 1;
      ++done;
    }
  }
  std::printf(
      "\nHonest products refused: %d of %d (%lld rows, 4 %s rounds); the largest difference was "
      "%.2f of its tolerance.\n",
      refused, done, static_cast<long long>(rows),
      std::string(check_distribution_name(distribution)).c_str(), worst);
}

}  // namespace
}  // namespace tempo

int main(int argc, char** argv) {
  CLI::App app("Detection rates of tampering, and false alarms, as Markdown");
  int trials = 400;
  int products = 12000;
  std::uint64_t seed = 1;
  app.add_option("--trials", trials, "tampered products a cell")->check(CLI::Range(4, 1000000));
  app.add_option("--products", products, "honest products")->check(CLI::Range(1, 10000000));
  app.add_option("--seed", seed, "of data, keys and check vectors");
  CLI11_PARSE(app, argc, argv);
  tempo::set_gemm_threads(1);
  tempo::SeededRandom random(seed);
  tempo::print_detection(random, trials);
  using tempo::CheckDistribution;
  for (const auto distribution : {CheckDistribution::kUniform, CheckDistribution::kGaussian}) {
    tempo::print_false_alarms(random, products, distribution);
  }
  return 0;
}
