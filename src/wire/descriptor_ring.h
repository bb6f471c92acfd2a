// File: wire/descriptor_ring.h
// The two ends of a single-producer, single-consumer ring of fixed-size descriptors in memory that
// is shared with a process that is not trusted. Each end keeps its own index and the geometry in
// private memory and only ever writes its index out; the peer's index is read once a call and
// accepted only within `entries` of the own one; a descriptor is copied out once. A peer that says
// anything impossible breaks the ring for good.
//
// Waiting: the consumer raises a flag before it sleeps on its doorbell, so that a busy pair makes
// no system calls. Flag and index are sequentially consistent, so that no wake-up is lost between
// honest peers; a dishonest one can only be late, which every wait bounds.
//
// Thread safety: one thread an end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>

#include "base/error.h"
#include "wire/shared_words.h"

namespace tempo {

// Where a ring lives. Each word has a cache line of its own; the producer writes head and slots,
// the consumer tail and waiting.
struct RingPlace {
  std::byte* head = nullptr;
  std::byte* tail = nullptr;
  std::byte* waiting = nullptr;
  std::byte* slots = nullptr;
};

template <class Slot>
class RingProducer {
  static_assert(std::is_trivially_copyable_v<Slot> && sizeof(Slot) % kWordBytes == 0);

 public:
  // entries: a power of two.
  RingProducer(const RingPlace& place, std::uint32_t entries) : place_(place), entries_(entries) {}

  // How many descriptors can be pushed now. Nothing: the ring is broken.
  std::optional<std::uint32_t> room() {
    if (broken_) return std::nullopt;
    const std::uint64_t used = head_ - load_index(place_.tail);
    if (used > entries_) {
      broken_ = true;
      return std::nullopt;
    }
    room_ = static_cast<std::uint32_t>(entries_ - used);
    return room_;
  }

  // Precondition: the last room() left room for it.
  void push(const Slot& slot) {
    TEMPO_ASSERT(room_ > 0);
    --room_;
    copy_out(place_.slots + (head_ & (entries_ - 1)) * sizeof(Slot), &slot, sizeof(Slot));
    ++head_;
    store_index(place_.head, head_);
  }

  // After push: whether the consumer may be asleep, and its doorbell has to be rung.
  bool peer_waits() const { return load_index(place_.waiting) != 0; }

 private:
  const RingPlace place_;
  const std::uint64_t entries_;
  std::uint64_t head_ = 0;
  std::uint32_t room_ = 0;
  bool broken_ = false;
};

enum class RingRead { kItem, kEmpty, kBroken };

template <class Slot>
class RingConsumer {
  static_assert(std::is_trivially_copyable_v<Slot> && sizeof(Slot) % kWordBytes == 0);

 public:
  RingConsumer(const RingPlace& place, std::uint32_t entries) : place_(place), entries_(entries) {}

  RingRead pop(Slot& slot) {
    const RingRead state = look();
    if (state != RingRead::kItem) return state;
    copy_in(&slot, place_.slots + (tail_ & (entries_ - 1)) * sizeof(Slot), sizeof(Slot));
    ++tail_;
    store_index(place_.tail, tail_);
    return RingRead::kItem;
  }

  // Announces that the consumer is about to sleep. Anything but kEmpty: do not.
  RingRead begin_wait() {
    store_index(place_.waiting, 1);
    const RingRead state = look();
    if (state != RingRead::kEmpty) end_wait();
    return state;
  }
  void end_wait() { store_index(place_.waiting, 0); }

 private:
  RingRead look() {
    if (broken_) return RingRead::kBroken;
    const std::uint64_t ready = load_index(place_.head) - tail_;
    if (ready > entries_) broken_ = true;
    if (broken_) return RingRead::kBroken;
    return ready == 0 ? RingRead::kEmpty : RingRead::kItem;
  }

  const RingPlace place_;
  const std::uint64_t entries_;
  std::uint64_t tail_ = 0;
  bool broken_ = false;
};

}  // namespace tempo
