#include "worker/task_executor.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

namespace tempo {
namespace {

Completion failed(const Task& task, TaskStatus status, std::uint64_t detail) {
  return {task.request, status, 0, 0, detail};
}

Transpose transpose_of(const Task& task, MultiplyFlags flag) {
  return (task.flags & flag) != 0 ? Transpose::kYes : Transpose::kNo;
}

}  // namespace

TaskExecutor::TaskExecutor(Device& device, const StoreLimits& limits, WorkerHooks* hooks)
    : device_(device), store_(limits), hooks_(hooks) {}

Completion TaskExecutor::execute(const Task& task, const std::byte* payload, std::byte* reply) {
  const Completion completion = run(task, payload, reply);
  ++tasks_done_;
  bytes_in_use_ = store_.bytes();
  return completion;
}

void TaskExecutor::clear() {
  store_.clear();
  bytes_in_use_ = 0;
}

Completion TaskExecutor::run(const Task& task, const std::byte* payload, std::byte* reply) {
  if (hooks_ != nullptr) {
    const std::size_t floats = task.payload_bytes() / sizeof(float);
    hooks_->received(task, {reinterpret_cast<const float*>(payload), floats});
  }
  switch (task.verb) {
    case Verb::kPut:
      return put(task, payload);
    case Verb::kMultiply:
      return multiply(task, reply);
    case Verb::kDrop:
      store_.drop(task.a, task.b);
      break;
    case Verb::kWatch:
      break;  // not task_ok()
  }
  return {task.request, TaskStatus::kOk, 0, 0, 0};
}

Completion TaskExecutor::put(const Task& task, const std::byte* payload) {
  const std::uint64_t bytes = task.payload_bytes();
  if (const std::uint64_t excess = store_.excess(task.result, bytes); excess > 0) {
    return failed(task, TaskStatus::kOutOfMemory, excess);
  }
  store_.drop(task.result, task.result);  // before the allocation: the limit holds throughout
  auto matrix = device_.allocate(task.rows, task.cols);
  if (!matrix) return failed(task, TaskStatus::kOutOfMemory, bytes);
  device_.upload(payload, *matrix);
  store_.insert(task.result, std::move(matrix));
  return {task.request, TaskStatus::kOk, 0, 0, 0};
}

Completion TaskExecutor::multiply(const Task& task, std::byte* reply) {
  const DeviceMatrix* a = store_.find(task.a);
  if (a == nullptr) return failed(task, TaskStatus::kUnknownId, task.a);
  const DeviceMatrix* b = store_.find(task.b);
  if (b == nullptr) return failed(task, TaskStatus::kUnknownId, task.b);
  const Transpose trans_a = transpose_of(task, kTransposeA);
  const Transpose trans_b = transpose_of(task, kTransposeB);
  const bool ta = trans_a == Transpose::kYes;
  const bool tb = trans_b == Transpose::kYes;
  if ((ta ? a->cols() : a->rows()) != task.rows || (tb ? b->rows() : b->cols()) != task.cols ||
      (ta ? a->rows() : a->cols()) != (tb ? b->cols() : b->rows())) {
    return failed(task, TaskStatus::kBadTask, 0);
  }
  const std::uint32_t inner = ta ? a->rows() : a->cols();

  const auto start = std::chrono::steady_clock::now();
  const bool accumulate = (task.flags & kAccumulate) != 0;
  const bool returned = (task.flags & kReturn) != 0;
  if (accumulate) {
    DeviceMatrix* sum = store_.find(task.result);
    if (sum == nullptr) return failed(task, TaskStatus::kUnknownId, task.result);
    if (sum->rows() != task.rows || sum->cols() != task.cols || sum == a || sum == b) {
      return failed(task, TaskStatus::kBadTask, 0);
    }
    device_.multiply(*a, trans_a, *b, trans_b, true, *sum);
    if (returned) device_.download(*sum, reply);
  } else if ((task.flags & kKeep) != 0) {
    const std::uint64_t bytes = std::uint64_t{task.rows} * task.cols * sizeof(float);
    if (const std::uint64_t excess = store_.excess(task.result, bytes); excess > 0) {
      return failed(task, TaskStatus::kOutOfMemory, excess);
    }
    // What is replaced may be an operand: it goes afterwards.
    auto product = device_.allocate(task.rows, task.cols);
    if (!product) return failed(task, TaskStatus::kOutOfMemory, bytes);
    device_.multiply(*a, trans_a, *b, trans_b, false, *product);
    if (returned) device_.download(*product, reply);
    store_.insert(task.result, std::move(product));
  } else if (!device_.multiply_to_host(*a, trans_a, *b, trans_b, reply)) {
    return failed(task, TaskStatus::kOutOfMemory, task.reply_bytes());
  }
  const auto took = std::chrono::duration_cast<std::chrono::microseconds>(
      std::chrono::steady_clock::now() - start);

  if (hooks_ != nullptr) {
    auto* result = returned ? reinterpret_cast<float*>(reply) : nullptr;
    hooks_->after_multiply(task, result, task.rows, task.cols, inner);
  }
  const auto us = static_cast<std::uint32_t>(std::min<std::int64_t>(took.count(), UINT32_MAX));
  return {task.request, TaskStatus::kOk, us, task.reply_bytes(), 0};
}

}  // namespace tempo
