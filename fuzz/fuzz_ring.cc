// A hostile off-loader against the enclave's end of the ring: forged completions and indexes, in
// any order with what the enclave does. Whatever is delivered must belong to one open request,
// once, with its length; whatever is reserved must lie in the region and overlap nothing; a worker
// that joins has a place, a new epoch, and a printable description.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "enclave/offload/ring_link.h"
#include "fuzz/script_reader.h"
#include "wire/shared_words.h"

namespace tempo::fuzz {
namespace {

constexpr RingGeometry kGeometry{4, 8, 4096};
constexpr std::uint32_t kDescriptorBytes = 4096 + kGeometry.entries * (64 + 32);

class Enclave {
 public:
  Enclave() : link_(memory_.span(), kGeometry, std::vector<WorkerInfo>(2), Fd()) {}

  std::byte* region() { return memory_.data(); }

  void submit(ScriptReader& script) {
    Task task;
    task.verb = static_cast<Verb>(1 + script.below(3));
    task.worker = script.below(kMaxWorkers);
    task.rows = 1 + script.below(100);
    task.cols = 1 + script.below(100);
    task.flags = task.verb == Verb::kMultiply ? script.below(32) : 0;
    const std::uint64_t bytes =
        task.payload_bytes() > 0 ? task.payload_bytes() : task.reply_bytes();
    std::optional<Slot> slot;
    if (bytes > 0) {
      if (bytes > link_.max_slot_bytes()) return;
      slot = link_.reserve(bytes);
      if (!slot) return;
      TEMPO_ASSERT(slot->data >= ring_slab(region(), kGeometry, 0));
      TEMPO_ASSERT(slot->data + (bytes + 7) / 8 * 8 <= region() + memory_.size());
      const std::vector<std::byte> payload(bytes, std::byte{0x5A});
      copy_out(slot->data, payload.data(), bytes);
    }
    const bool is_put = task.verb == Verb::kPut;
    auto request =
        link_.submit(task, is_put && slot ? &*slot : nullptr, !is_put && slot ? &*slot : nullptr);
    TEMPO_ASSERT(request.ok() || request.error().code == ErrorCode::kProtocol);
    TEMPO_ASSERT(!broken_ || !request.ok());
    broken_ = !request.ok();
    if (!broken_ && request->has_value()) {
      TEMPO_ASSERT(open_.size() < kGeometry.entries);
      const Open open{task.reply_bytes(), is_put ? std::nullopt : slot};
      TEMPO_ASSERT(open_.emplace(**request, open).second);
    } else if (slot) {
      link_.release(*slot);
    }
  }

  void poll() {
    auto completion = link_.poll(0);
    TEMPO_ASSERT(!broken_ || !completion.ok());
    broken_ = !completion.ok();
    if (broken_ || !completion->has_value()) return;
    const auto entry = open_.find((*completion)->request);
    TEMPO_ASSERT(entry != open_.end());
    const bool ok = (*completion)->status == TaskStatus::kOk;
    TEMPO_ASSERT((*completion)->bytes == (ok ? entry->second.reply_bytes : 0));
    if (const auto& reply = entry->second.reply) {
      std::vector<std::byte> result(reply->bytes);
      copy_in(result.data(), reply->data, reply->bytes);
      link_.release(*reply);
    }
    open_.erase(entry);
  }

  void take_joins() {
    for (const WorkerJoin& join : link_.joins()) {
      TEMPO_ASSERT(join.worker < kMaxWorkers && join.epoch > epochs_[join.worker]);
      const char* const text = join.info.device;
      const char* const end = std::find(text, text + sizeof(join.info.device), '\0');
      TEMPO_ASSERT(end != text + sizeof(join.info.device));
      TEMPO_ASSERT(std::all_of(text, end, [](char c) { return c >= ' ' && c <= '~'; }));
      epochs_[join.worker] = join.epoch;
    }
  }

 private:
  struct Open {
    std::uint64_t reply_bytes;
    std::optional<Slot> reply;
  };
  AlignedBuffer<std::byte> memory_{ring_region_bytes(kGeometry)};
  RingLink link_;
  std::map<std::uint64_t, Open> open_;
  std::array<std::uint32_t, kMaxWorkers> epochs_ = {};
  bool broken_ = false;
};

}  // namespace
}  // namespace tempo::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tempo;
  fuzz::ScriptReader script(data, size);
  fuzz::Enclave enclave;
  const RingPlace tasks = ring_submissions(enclave.region(), fuzz::kGeometry);
  const RingPlace completions = ring_completions(enclave.region(), fuzz::kGeometry);
  std::uint64_t head = 0;
  while (!script.done()) {
    switch (script.read<std::uint8_t>() % 7) {
      case 0:
        enclave.submit(script);
        break;
      case 1:
        enclave.poll();
        break;
      case 2:  // anything anywhere
        store_word(enclave.region() + script.below(fuzz::kDescriptorBytes / 8) * 8,
                   script.read<std::uint64_t>());
        break;
      case 3:
        store_index(tasks.tail, load_index(tasks.head));
        break;
      case 4: {  // a small number where an index is
        std::byte* const words[] = {tasks.tail, tasks.waiting, completions.head};
        store_index(words[script.below(3)], script.below(16));
        break;
      }
      case 5:
        enclave.take_joins();
        break;
      default: {  // a plausible completion, perhaps of a join: worker and epoch in its detail
        const std::uint64_t epoch = script.below(4);
        const Completion completion{
            script.below(64), static_cast<TaskStatus>(script.below(6)), 0,
            script.below(4) == 0 ? sizeof(WorkerInfo) : 4ULL * script.below(10001),
            epoch << 32 | script.read<std::uint8_t>()};
        const std::uint64_t at = head % fuzz::kGeometry.entries * sizeof(Completion);
        copy_out(completions.slots + at, &completion, sizeof(completion));
        store_index(completions.head, ++head);
      }
    }
  }
  return 0;
}
