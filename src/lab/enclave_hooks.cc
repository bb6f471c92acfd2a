#include "lab/enclave_hooks.h"

#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <memory>
#include <optional>
#include <thread>

#include "base/philox.h"
#include "lab/reordered_engine.h"

namespace tempo::lab {
namespace {

class SeededRandom final : public RandomSource {
 public:
  explicit SeededRandom(std::uint64_t seed) : seed_(seed) {}

  void begin_again() { counter_ = 0; }

  void fill(std::span<std::byte> out) override {
    for (std::size_t i = 0; i < out.size();) {
      const std::array<std::uint32_t, 4> words =
          philox4x32(seed_, {static_cast<std::uint32_t>(counter_),
                             static_cast<std::uint32_t>(counter_ >> 32), 0x6c6162U, 0});
      ++counter_;
      const std::size_t n = std::min(sizeof(words), out.size() - i);
      std::memcpy(out.data() + i, words.data(), n);
      i += n;
    }
  }

 private:
  std::uint64_t seed_;
  std::uint64_t counter_ = 0;
};

class DumpFile {
 public:
  explicit DumpFile(const EnclaveHookOptions& options)
      : values_(options.dump_directory + "/plain.f32", std::ios::binary | std::ios::app),
        index_(options.dump_directory + "/plain.jsonl", std::ios::app),
        limit_(options.dump_limit_bytes) {}

  void add(const std::string& name, const char* kind, const float* values, std::int64_t rows,
           std::int64_t cols) {
    const std::uint64_t bytes = static_cast<std::uint64_t>(rows * cols) * sizeof(float);
    if (values == nullptr || written_ + bytes > limit_) return;
    index_ << R"({"operator":")" << name << R"(","kind":")" << kind << R"(","rows":)" << rows
           << R"(,"cols":)" << cols << R"(,"offset":)" << written_ << "}\n"
           << std::flush;
    values_.write(reinterpret_cast<const char*>(values), static_cast<std::streamsize>(bytes));
    values_.flush();
    written_ += bytes;
  }

 private:
  std::ofstream values_;
  std::ofstream index_;
  const std::uint64_t limit_;
  std::uint64_t written_ = 0;
};

// One after the other, of all the engines of a job.
class StepClock {
 public:
  explicit StepClock(const std::string& path) : file_(path, std::ios::app) {}

  void begin() {
    const Times now = read();
    if (before_) {
      file_ << R"({"wall_ms":)" << now.wall_ms - before_->wall_ms << R"(,"cpu_ms":)"
            << now.cpu_ms - before_->cpu_ms << R"(,"queued_ms":)"
            << now.queued_ms - before_->queued_ms << "}\n"
            << std::flush;
    }
    before_ = now;
  }

 private:
  struct Times {
    double wall_ms = 0, cpu_ms = 0, queued_ms = 0;
  };

  static double clock_ms(clockid_t clock) {
    timespec time{};
    ::clock_gettime(clock, &time);
    return 1e3 * static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_nsec);
  }

  static Times read() {
    double running_ns = 0;
    double queued_ns = 0;
    std::ifstream("/proc/thread-self/schedstat") >> running_ns >> queued_ns;
    return {clock_ms(CLOCK_MONOTONIC), clock_ms(CLOCK_PROCESS_CPUTIME_ID), 1e-6 * queued_ns};
  }

  std::ofstream file_;
  std::optional<Times> before_;
};

// What the engines of a job share.
struct Instruments {
  std::shared_ptr<SeededRandom> repeated;  // null: steps differ
  std::shared_ptr<StepClock> clock;        // null: none
  std::shared_ptr<DumpFile> dump;          // null: none
  std::chrono::milliseconds pause{0};      // before a step
};

// Passes everything on and writes down what it sees.
class ObservedEngine final : public LinearEngine {
 public:
  ObservedEngine(LinearEngine& engine, Instruments instruments)
      : engine_(engine), instruments_(std::move(instruments)), file_(instruments_.dump.get()) {}

  bool takes(const LinearOp& op) const override { return engine_.takes(op); }
  void offer(IdleWork* work) override { engine_.offer(work); }
  Status begin_step(StepMode mode) override {
    if (instruments_.repeated) instruments_.repeated->begin_again();
    if (instruments_.clock) instruments_.clock->begin();
    std::this_thread::sleep_for(instruments_.pause);
    return engine_.begin_step(mode);
  }
  void announce(const LinearOp& op, const std::vector<const float*>& weights) override {
    engine_.announce(op, weights);
  }

  Status forward(const LinearOp& op, const float* input,
                 const std::vector<ForwardPart>& parts) override {
    if (file_ == nullptr) return engine_.forward(op, input, parts);
    const ConvGeometry& g = op.geometry;
    file_->add(op.name, "input", input, op.instances * g.input_elements() / g.in_c, g.in_c);
    for (std::size_t k = 0; k < parts.size(); ++k) {
      file_->add(name(op, k), "weights", parts[k].weights, op.instances * features(op, k), g.n());
      file_->add(name(op, k), "bias", parts[k].bias, 1, features(op, k));
    }
    Status status = engine_.forward(op, input, parts);
    for (std::size_t k = 0; k < parts.size(); ++k) {
      file_->add(name(op, k), "output", parts[k].output, op.instances * g.p(), features(op, k));
    }
    return status;
  }

  Status backward(const LinearOp& op, const float* input, const std::vector<BackwardPart>& parts,
                  float* d_input, bool accumulate_input, bool may_defer) override {
    for (std::size_t k = 0; file_ != nullptr && k < parts.size(); ++k) {
      file_->add(name(op, k), "d_output", parts[k].d_output, op.instances * op.geometry.p(),
                 features(op, k));
    }
    return engine_.backward(op, input, parts, d_input, accumulate_input, may_defer);
  }

  Status end_step() override { return engine_.end_step(); }
  bool defers(const LinearOp& op) const override { return engine_.defers(op); }
  Status end_step_early() override { return engine_.end_step_early(); }
  Status settle() override { return engine_.settle(); }

 private:
  static const std::string& name(const LinearOp& op, std::size_t part) {
    return op.parts.empty() ? op.name : op.parts[part].name;
  }
  static std::int64_t features(const LinearOp& op, std::size_t part) {
    return op.parts.empty() ? op.geometry.m() : op.parts[part].features;
  }

  LinearEngine& engine_;
  const Instruments instruments_;
  DumpFile* const file_;
};

// A job's source that somebody else begins again.
class SharedRandom final : public RandomSource {
 public:
  explicit SharedRandom(std::shared_ptr<RandomSource> source) : source_(std::move(source)) {}
  void fill(std::span<std::byte> out) override { source_->fill(out); }

 private:
  const std::shared_ptr<RandomSource> source_;
};

}  // namespace

EnclaveHooks make_enclave_hooks(const EnclaveHookOptions& options) {
  std::fprintf(stderr, "TEMPO LAB PROGRAM: not for private data\n");
  EnclaveHooks hooks;
  Instruments instruments;
  if (options.repeats_steps) {
    std::fprintf(stderr, "TEMPO LAB PROGRAM: every step has the same keys\n");
    instruments.repeated = std::make_shared<SeededRandom>(options.seed);
    hooks.keeps_shares = true;
    hooks.make_random = [source = instruments.repeated] {
      return std::make_unique<SharedRandom>(source);
    };
  } else if (options.seeded) {
    std::fprintf(stderr, "TEMPO LAB PROGRAM: keys and check vectors follow from a seed\n");
    hooks.make_random = [seed = options.seed] { return std::make_unique<SeededRandom>(seed); };
  }
  if (!options.dump_directory.empty()) {
    std::fprintf(stderr, "TEMPO LAB PROGRAM: operands are written to a file in clear\n");
    instruments.dump = std::make_shared<DumpFile>(options);
  }
  if (!options.step_times.empty()) {
    instruments.clock = std::make_shared<StepClock>(options.step_times);
  }
  instruments.pause = options.step_pause;
  if (options.reorders_sums) {
    hooks.wrap_engine = [](LinearEngine&) { return std::make_unique<ReorderedEngine>(); };
  } else if (instruments.repeated || instruments.clock || instruments.dump ||
             instruments.pause.count() > 0) {
    hooks.wrap_engine = [instruments](LinearEngine& engine) {
      return std::make_unique<ObservedEngine>(engine, instruments);
    };
  }
  return hooks;
}

}  // namespace tempo::lab
