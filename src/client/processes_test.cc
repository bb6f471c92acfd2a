// Child processes, their directory, and signals. Shell commands stand for the programs.
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "client/child_process.h"
#include "client/interrupt.h"
#include "client/local_system.h"
#include "client/runtime_directory.h"
#include "client/temporary_directory.h"

namespace tempo {
namespace {

using std::chrono::seconds;

ChildOptions shell(const std::string& script, const std::string& log_path) {
  return {"a shell", {"/bin/sh", "-c", script}, {"TEMPO_TEST=yes"}, log_path};
}

bool is_alive(pid_t pid) {
  return ::kill(pid, 0) == 0;
}

TEST(ChildProcess, TellsHowItEndedAndItsLastWords) {
  const TemporaryDirectory directory;
  auto child = ChildProcess::start(shell(
      "echo first; printf 'last \\033 %s\\n' \"$TEMPO_TEST\" >&2; exit 7", directory.file("log")));
  ASSERT_TRUE(child.ok());
  ASSERT_TRUE(child->wait(seconds(20)));
  EXPECT_EQ(child->ended(), "exit code 7");
  EXPECT_EQ(child->exit_code(), 7);
  EXPECT_EQ(child->last_words(), "last   yes");
}

TEST(ChildProcess, TellsTheSignal) {
  const TemporaryDirectory directory;
  auto child = ChildProcess::start(shell("kill -9 $$", directory.file("log")));
  ASSERT_TRUE(child.ok());
  ASSERT_TRUE(child->wait(seconds(20)));
  EXPECT_TRUE(child->ended()->starts_with("signal 9")) << *child->ended();
}

TEST(ChildProcess, AMissingProgramIsAnError) {
  ChildOptions options = shell("", "");
  options.arguments = {"/nonexistent/program"};
  const auto child = ChildProcess::start(options);
  ASSERT_FALSE(child.ok());
  EXPECT_EQ(child.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(child.error().where, "/nonexistent/program");
}

TEST(ChildProcess, DoesNotOutliveItsObject) {
  const TemporaryDirectory directory;
  pid_t pid = -1;
  {
    auto child = ChildProcess::start(
        shell("trap '' TERM; while :; do sleep 1; done", directory.file("log")));
    ASSERT_TRUE(child.ok());
    pid = child->pid();
    EXPECT_TRUE(is_alive(pid));
    EXPECT_NE(::getpgid(pid), ::getpgid(0)) << "a terminal's Ctrl-C would reach it";
  }
  EXPECT_FALSE(is_alive(pid));
}

TEST(RuntimeDirectory, IsPrivateAndGoesWithTheObject) {
  const TemporaryDirectory base;
  std::string path;
  {
    const auto directory = RuntimeDirectory::create(base.path());
    ASSERT_TRUE(directory.ok()) << directory.error().one_line();
    path = directory->path();
    EXPECT_TRUE(path.starts_with(base.path() + "/"));
    EXPECT_EQ(std::filesystem::status(path).permissions(), std::filesystem::perms::owner_all);
    std::ofstream(directory->file("left")) << "x";
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(RuntimeDirectory, RemovesWhatADeadRunLeftAndNothingElse) {
  const TemporaryDirectory base;
  std::filesystem::create_directory(base.file("tempo-run-abcdef"));
  std::filesystem::create_directory(base.file("tempo-else"));
  const auto living = RuntimeDirectory::create(base.path());
  const auto other = RuntimeDirectory::create(base.path());
  EXPECT_FALSE(std::filesystem::exists(base.file("tempo-run-abcdef")));
  EXPECT_TRUE(std::filesystem::exists(base.file("tempo-else")));
  EXPECT_TRUE(std::filesystem::exists(living->path()));
}

TEST(Interrupt, CountsSignalsAndWakesWaits) {
  Interrupt interrupt;
  const auto readable = [&] {
    pollfd entry = {interrupt.fd(), POLLIN, 0};
    return ::poll(&entry, 1, 0) == 1;
  };
  EXPECT_FALSE(readable());
  ::raise(SIGINT);
  EXPECT_TRUE(readable());
  EXPECT_EQ(interrupt.count(), 1);
  interrupt.clear();
  EXPECT_FALSE(readable());
  ::raise(SIGTERM);
  EXPECT_TRUE(readable());
  EXPECT_EQ(interrupt.count(), 2);
}

class LocalSystemTest : public testing::Test {
 protected:
  Result<LocalSystem> start(LocalSystemOptions options) {
    options.directory_base = base_.path();
    return LocalSystem::start(options, interrupt_);
  }
  TemporaryDirectory base_;
  Interrupt interrupt_;
};

TEST_F(LocalSystemTest, AWorkerThatEndsAtOnceIsOneClearError) {
  LocalSystemOptions options;
  options.workers = 2;
  // Scripts take the flags that follow as their own.
  const std::string lasting = base_.write("lasting.sh", "sleep 60\n");
  const std::string failing = base_.write("failing.sh", "echo no device >&2\nexit 9\n");
  options.worker_programs = {"/bin/sh " + lasting, "/bin/sh " + failing};
  options.offloader_program = options.enclave_program = "/bin/sh " + lasting;
  const auto system = start(options);
  ASSERT_FALSE(system.ok());
  EXPECT_EQ(system.error().code, ErrorCode::kNoWorker);
  EXPECT_EQ(system.error().what, "worker 1 has ended");
  EXPECT_EQ(system.error().got, "exit code 9");
  EXPECT_EQ(system.error().next_step, "its last words: no device");
  EXPECT_EQ(base_.entries(), 2U) << "only the scripts are left";
}

TEST_F(LocalSystemTest, AnEnclaveThatEndsAtOncePassesItsCodeOn) {
  LocalSystemOptions options;
  options.enclave_program = "/bin/sh " + base_.write("failing.sh", "exit 13\n");
  const auto system = start(options);
  ASSERT_FALSE(system.ok());
  EXPECT_EQ(system.error().code, ErrorCode::kIo);
  EXPECT_EQ(system.error().what, "the enclave has ended");
}

TEST_F(LocalSystemTest, AMissingProgramIsNamed) {
  LocalSystemOptions options;
  options.enclave_program = "/nonexistent/enclave";
  const auto system = start(options);
  ASSERT_FALSE(system.ok());
  EXPECT_EQ(system.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(system.error().where, "/nonexistent/enclave");
}

TEST_F(LocalSystemTest, AnInterruptEndsTheStart) {
  ::raise(SIGINT);
  LocalSystemOptions options;
  options.enclave_program = "/bin/sh " + base_.write("lasting.sh", "sleep 60\n");
  const auto system = start(options);
  ASSERT_FALSE(system.ok());
  EXPECT_EQ(system.error().code, ErrorCode::kInterrupted);
}

}  // namespace
}  // namespace tempo
