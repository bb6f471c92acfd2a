#include "enclave/server/job_store.h"

#include <gtest/gtest.h>

#include "enclave/server/fake_runner.h"

namespace tempo {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

JobSpec job_of(std::int64_t steps) {
  JobSpec spec;
  spec.data.format = "npy";
  spec.steps = steps;
  return spec;
}

std::string ready_job(JobStore& store, std::int64_t steps) {
  const auto id = store.create(job_of(steps));
  EXPECT_TRUE(id.ok());
  auto room = store.make_room(*id, 1);
  EXPECT_TRUE(room.ok());
  EXPECT_TRUE(store.put_model(*id, to_bytes("m"), std::move(*room)).ok());
  return *id;
}

JobView wait_until_ended(JobStore& store, const std::string& id) {
  std::uint64_t from = 0;
  for (;;) {
    auto events = store.wait_events(id, from, seconds(10));
    EXPECT_TRUE(events.ok());
    if (!events || events->ended) return events ? events->view : JobView();
    from = events->next;
  }
}

TEST(JobStore, RunsJobsInTheOrderOfTheirStart) {
  FakeRunner runner(1);
  JobStore store(runner, ApiLimits());
  const std::string a = ready_job(store, 20);
  const std::string b = ready_job(store, 1);
  ASSERT_TRUE(store.start(a).ok());
  ASSERT_TRUE(store.start(b).ok());
  EXPECT_EQ(wait_until_ended(store, b).state, JobState::kDone);
  EXPECT_EQ(store.view(a)->state, JobState::kDone);
}

TEST(JobStore, StopsARunningJobAndKeepsItsOutputs) {
  FakeRunner runner(1);
  JobStore store(runner, ApiLimits());
  const std::string id = ready_job(store, 1'000'000);
  ASSERT_TRUE(store.start(id).ok());
  ASSERT_FALSE(store.wait_events(id, 0, seconds(10))->lines.empty());
  ASSERT_TRUE(store.stop(id).ok());
  EXPECT_EQ(wait_until_ended(store, id).state, JobState::kStopped);
  EXPECT_FALSE((*store.outputs(id))->model.empty());
}

TEST(JobStore, KeepsABoundedNumberOfLines) {
  FakeRunner runner;
  ApiLimits limits;
  limits.events = 4;
  JobStore store(runner, limits);
  const std::string id = ready_job(store, 10);
  ASSERT_TRUE(store.start(id).ok());
  wait_until_ended(store, id);
  const auto events = store.wait_events(id, 0, milliseconds(0));
  ASSERT_TRUE(events.ok());
  ASSERT_EQ(events->lines.size(), 4U);
  EXPECT_EQ(events->lines.front().step, 7);
  EXPECT_EQ(events->next, 10U);
  EXPECT_TRUE(events->ended);
}

TEST(JobStore, ANumberFromTheFutureStartsAtTheEnd) {
  FakeRunner runner;
  JobStore store(runner, ApiLimits());
  const std::string id = ready_job(store, 3);
  const auto events = store.wait_events(id, ~std::uint64_t{0}, milliseconds(1));
  ASSERT_TRUE(events.ok());
  EXPECT_TRUE(events->lines.empty());
  EXPECT_EQ(events->next, 0U);
}

TEST(JobStore, ShutsDownWithJobsRunningAndQueued) {
  FakeRunner runner(1);
  JobStore store(runner, ApiLimits());
  const std::string a = ready_job(store, 1'000'000);
  const std::string b = ready_job(store, 1);
  ASSERT_TRUE(store.start(a).ok());
  ASSERT_TRUE(store.start(b).ok());
  ASSERT_FALSE(store.wait_events(a, 0, seconds(10))->lines.empty());
  EXPECT_TRUE(store.shut_down(seconds(10)));
  EXPECT_EQ(store.view(a)->state, JobState::kStopped);
  EXPECT_EQ(store.view(b)->state, JobState::kStopped);
  const std::string c = ready_job(store, 1);
  EXPECT_FALSE(store.start(c).ok());
}

TEST(JobStore, IdsDiffer) {
  FakeRunner runner;
  JobStore store(runner, ApiLimits());
  EXPECT_NE(*store.create(job_of(1)), *store.create(job_of(1)));
}

}  // namespace
}  // namespace tempo
