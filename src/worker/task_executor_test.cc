#include "worker/task_executor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "base/buffer.h"
#include "worker/cpu_device.h"

namespace tempo {
namespace {

using Matrix = AlignedBuffer<float>;

const std::byte* bytes_of(const Matrix& m) {
  return reinterpret_cast<const std::byte*>(m.data());
}
std::byte* bytes_of(Matrix& m) {
  return reinterpret_cast<std::byte*>(m.data());
}

class TaskExecutorTest : public testing::Test {
 protected:
  static constexpr std::uint64_t kLimit = 4000;

  Completion put(std::uint64_t id, std::uint32_t rows, std::uint32_t cols) {
    Matrix m(std::size_t{rows} * cols);
    for (float& x : m.span()) x = normal_(random_);
    return put(id, rows, cols, m);
  }
  Completion put(std::uint64_t id, std::uint32_t rows, std::uint32_t cols, const Matrix& m) {
    Task task;
    task.verb = Verb::kPut;
    task.result = id;
    task.rows = rows;
    task.cols = cols;
    return executor_.execute(task, bytes_of(m), nullptr);
  }
  Completion multiply(std::uint64_t a, std::uint64_t b, std::uint64_t result, std::uint32_t flags,
                      std::uint32_t rows, std::uint32_t cols, Matrix* reply = nullptr) {
    Task task;
    task.verb = Verb::kMultiply;
    task.a = a;
    task.b = b;
    task.result = result;
    task.flags = flags;
    task.rows = rows;
    task.cols = cols;
    return executor_.execute(task, nullptr, reply == nullptr ? nullptr : bytes_of(*reply));
  }
  void drop(std::uint64_t first, std::uint64_t last) {
    Task task;
    task.verb = Verb::kDrop;
    task.a = first;
    task.b = last;
    EXPECT_EQ(executor_.execute(task, nullptr, nullptr).status, TaskStatus::kOk);
  }

  std::mt19937 random_{3};
  std::normal_distribution<float> normal_;
  CpuDevice device_{1};
  TaskExecutor executor_{device_, {kLimit, 5}, nullptr};
};

TEST_F(TaskExecutorTest, LimitsBytesAndNamesTheExcess) {
  EXPECT_EQ(put(1, 10, 50).status, TaskStatus::kOk);  // 2000 bytes
  EXPECT_EQ(put(2, 10, 50).status, TaskStatus::kOk);
  const Completion refused = put(3, 1, 7);
  EXPECT_EQ(refused.status, TaskStatus::kOutOfMemory);
  EXPECT_EQ(refused.detail, 28U);
  EXPECT_EQ(put(2, 5, 50).status, TaskStatus::kOk);  // replaces
  EXPECT_EQ(executor_.store().bytes(), 3000U);
  EXPECT_EQ(put(3, 1, 250).status, TaskStatus::kOk);
  const Completion kept = multiply(2, 2, 9, kTransposeB | kKeep, 5, 5);
  EXPECT_EQ(kept.status, TaskStatus::kOutOfMemory);
  EXPECT_EQ(kept.detail, 100U);
  drop(3, 3);
  EXPECT_EQ(multiply(2, 2, 9, kTransposeB | kKeep, 5, 5).status, TaskStatus::kOk);
  drop(0, ~std::uint64_t{0});
  EXPECT_EQ(executor_.store().bytes(), 0U);
}

TEST_F(TaskExecutorTest, LimitsTheNumberOfIds) {
  for (std::uint64_t id = 0; id < 5; ++id) EXPECT_EQ(put(id, 1, 1).status, TaskStatus::kOk);
  EXPECT_EQ(put(5, 1, 1).status, TaskStatus::kOutOfMemory);
  EXPECT_EQ(put(4, 2, 1).status, TaskStatus::kOk);
  drop(1, 3);
  EXPECT_EQ(executor_.store().size(), 2U);
  EXPECT_EQ(put(5, 1, 1).status, TaskStatus::kOk);
  drop(9, 2);  // an empty range
  EXPECT_EQ(executor_.store().size(), 3U);
}

TEST_F(TaskExecutorTest, NamesUnknownIdsAndBadShapes) {
  put(1, 3, 4);
  put(2, 4, 5);
  put(3, 3, 5);
  Matrix reply(25);
  Completion c = multiply(1, 7, 0, kReturn, 3, 5, &reply);
  EXPECT_EQ(c.status, TaskStatus::kUnknownId);
  EXPECT_EQ(c.detail, 7U);
  EXPECT_EQ(multiply(8, 2, 0, kReturn, 3, 5, &reply).detail, 8U);
  EXPECT_EQ(multiply(1, 2, 9, kAccumulate, 3, 5).detail, 9U);
  EXPECT_EQ(multiply(1, 2, 0, kReturn, 3, 4, &reply).status, TaskStatus::kBadTask);
  EXPECT_EQ(multiply(1, 2, 0, kReturn | kTransposeA, 3, 5, &reply).status, TaskStatus::kBadTask);
  EXPECT_EQ(multiply(1, 3, 0, kReturn, 3, 5, &reply).status, TaskStatus::kBadTask);  // inner
  EXPECT_EQ(multiply(1, 2, 1, kAccumulate, 3, 5).status, TaskStatus::kBadTask);
  EXPECT_EQ(multiply(1, 2, 3, kAccumulate, 3, 5).status, TaskStatus::kOk);
  put(4, 4, 4);
  EXPECT_EQ(multiply(4, 4, 4, kAccumulate, 4, 4).status, TaskStatus::kBadTask);  // in place
}

// All flags against a naive float64 product. The bound: each of the `inner` products and sums of
// either side rounds once, |error| <= (inner + 2) eps sum |a||b|.
TEST_F(TaskExecutorTest, MultipliesAccumulatesKeepsAndReturns) {
  constexpr std::uint32_t kRows = 5, kInner = 9, kCols = 7;
  for (std::uint32_t flags = 0; flags < 32; ++flags) {
    if ((flags & (kAccumulate | kKeep | kReturn)) == 0) continue;
    const bool ta = (flags & kTransposeA) != 0, tb = (flags & kTransposeB) != 0;
    const bool accumulate = (flags & kAccumulate) != 0;
    Matrix a(kRows * kInner), b(kInner * kCols), before(kRows * kCols), reply(kRows * kCols);
    for (Matrix* m : {&a, &b, &before}) {
      for (float& x : m->span()) x = normal_(random_);
    }
    drop(0, 100);
    put(1, ta ? kInner : kRows, ta ? kRows : kInner, a);
    put(2, tb ? kCols : kInner, tb ? kInner : kCols, b);
    if (accumulate) put(3, kRows, kCols, before);
    const Completion done = multiply(1, 2, 3, flags, kRows, kCols, &reply);
    ASSERT_EQ(done.status, TaskStatus::kOk) << flags;
    ASSERT_EQ(done.bytes, (flags & kReturn) != 0 ? reply.size() * sizeof(float) : 0);
    const bool stays = (flags & (kKeep | kAccumulate)) != 0;
    ASSERT_EQ(executor_.store().size(), stays ? 3U : 2U) << flags;
    Matrix results[2] = {Matrix(reply.size()), Matrix(reply.size())};
    int count = 0;
    if ((flags & kReturn) != 0) results[count++] = std::move(reply);
    if (stays) {  // read it back as identity times it
      Matrix identity(kRows * kRows);
      for (std::uint32_t i = 0; i < kRows; ++i) identity[i * kRows + i] = 1.0F;
      put(4, kRows, kRows, identity);
      ASSERT_EQ(multiply(4, 3, 0, kReturn, kRows, kCols, &results[count++]).status,
                TaskStatus::kOk);
    }
    for (int k = 0; k < count; ++k) {
      for (std::uint32_t r = 0; r < kRows; ++r) {
        for (std::uint32_t c = 0; c < kCols; ++c) {
          double sum = accumulate ? before[r * kCols + c] : 0.0;
          double magnitude = std::abs(sum);
          for (std::uint32_t i = 0; i < kInner; ++i) {
            const double x = ta ? a[i * kRows + r] : a[r * kInner + i];
            const double y = tb ? b[c * kInner + i] : b[i * kCols + c];
            sum += x * y;
            magnitude += std::abs(x * y);
          }
          EXPECT_NEAR(results[k][r * kCols + c], sum, (kInner + 2) * 0x1p-23 * magnitude) << flags;
        }
      }
    }
  }
}

TEST_F(TaskExecutorTest, ReplacesAnOperandByTheProduct) {
  Matrix two(1), reply(1);
  two[0] = 2.0F;
  put(1, 1, 1, two);
  EXPECT_EQ(multiply(1, 1, 1, kKeep, 1, 1).status, TaskStatus::kOk);
  EXPECT_EQ(multiply(1, 1, 0, kReturn, 1, 1, &reply).status, TaskStatus::kOk);
  EXPECT_EQ(reply[0], 16.0F);
  executor_.clear();
  EXPECT_EQ(multiply(1, 1, 0, kReturn, 1, 1, &reply).status, TaskStatus::kUnknownId);
}

}  // namespace
}  // namespace tempo
