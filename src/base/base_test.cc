#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "base/log_limit.h"
#include "base/philox.h"
#include "base/random.h"
#include "base/thread_pool.h"

namespace tempo {
namespace {

TEST(Error, PrintsOneLineWithoutControlCharacters) {
  const Error error{
      ErrorCode::kBadData, "label out of\nrange", "y.npy", "0 to 9", "\x1b[31m", "fix it"};
  EXPECT_EQ(error.one_line(),
            "label out of range; where: y.npy; expected 0 to 9, got  [31m; next: fix it");
}

TEST(LogLimit, AdmitsABurstAndThenALineAnInterval) {
  LogLimit::Clock::time_point now{};
  LogLimit limit([&] { return now; });
  const auto admitted = [&](int lines) {
    std::vector<std::string> all;
    for (int i = 0; i < lines; ++i) {
      if (auto more = limit.admit()) all.push_back(*more);
    }
    return all;
  };
  EXPECT_EQ(admitted(1000), std::vector<std::string>(LogLimit::kBurst, ""));
  now += LogLimit::kInterval - std::chrono::milliseconds(1);
  EXPECT_EQ(admitted(10).size(), 0U);
  now += std::chrono::milliseconds(1);
  EXPECT_EQ(admitted(10), std::vector<std::string>{" (and 990 lines like it before)"});
  now += 3 * LogLimit::kInterval;
  EXPECT_EQ(admitted(10).size(), 3U);
  // A rest saves up a burst, not more.
  now += 1000 * LogLimit::kInterval;
  EXPECT_EQ(admitted(1000).size(), static_cast<std::size_t>(LogLimit::kBurst));
}

TEST(Result, HoldsValueOrError) {
  const Result<int> good = 3;
  const Result<int> bad = Error{ErrorCode::kUsage, "no", {}, {}, {}, {}};
  EXPECT_TRUE(good.ok());
  EXPECT_EQ(*good, 3);
  EXPECT_FALSE(bad.ok());
  EXPECT_EQ(bad.error().code, ErrorCode::kUsage);
}

TEST(AlignedBuffer, IsAlignedAndZeroed) {
  const AlignedBuffer<float> buffer(33);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % kCacheLineBytes, 0U);
  EXPECT_TRUE(
      std::all_of(buffer.span().begin(), buffer.span().end(), [](float x) { return x == 0; }));
}

TEST(ThreadPool, RunsEveryItemOnce) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (int repeat = 0; repeat < 50; ++repeat) {
      std::vector<std::atomic<int>> seen(997);
      pool.parallel_for(997, 10, [&](std::int64_t begin, std::int64_t end) {
        EXPECT_LE(end - begin, 10);
        for (std::int64_t i = begin; i < end; ++i) seen[i]++;
      });
      for (const auto& count : seen) ASSERT_EQ(count.load(), 1);
    }
  }
}

TEST(ThreadPool, AnExceptionComesOutAfterTheOtherChunks) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    std::atomic<int> done = 0;
    const auto body = [&](std::int64_t begin, std::int64_t) {
      if (begin == 5) throw std::bad_alloc();
      ++done;
    };
    EXPECT_THROW(pool.parallel_for(100, 1, body), std::bad_alloc);
    EXPECT_EQ(done, threads > 1 ? 99 : 5);  // one thread has nobody to wait for
    pool.parallel_for(100, 1, [&](std::int64_t, std::int64_t) { ++done; });  // it still works
    EXPECT_EQ(done, threads > 1 ? 199 : 105);
  }
}

TEST(Random, PermutationsAreUniform) {
  SystemRandom random;
  std::vector<int> count(24, 0);
  constexpr int kTrials = 48000;
  for (int t = 0; t < kTrials; ++t) {
    std::array<std::uint32_t, 4> p{};
    random_permutation(random, p);
    std::array<std::uint32_t, 4> rest{0, 1, 2, 3};
    int index = 0;
    for (int i = 0; i < 4; ++i) {
      const auto at = std::find(rest.begin() + i, rest.end(), p[i]) - rest.begin();
      index = index * (4 - i) + static_cast<int>(at - i);
      std::rotate(rest.begin() + i, rest.begin() + at, rest.begin() + at + 1);
    }
    count[index]++;
  }
  double chi2 = 0;
  for (int c : count) chi2 += (c - 2000.0) * (c - 2000.0) / 2000.0;
  EXPECT_LT(chi2, 74.4);  // 23 degrees of freedom, p = 3e-7
}

TEST(Random, BelowIsInRangeAndUnbiased) {
  SystemRandom random;
  std::vector<int> count(3, 0);
  for (int i = 0; i < 30000; ++i) count.at(random_below(random, 3))++;
  for (int c : count) EXPECT_NEAR(c, 10000, 450);  // 5.5 sigma
}

// Known answers of the Random123 distribution (kat_vectors, philox4x32 10).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32(0, {0, 0, 0, 0}),
            (std::array<std::uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32(0xffffffffffffffff, {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}),
            (std::array<std::uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

}  // namespace
}  // namespace tempo
