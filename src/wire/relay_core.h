// File: wire/relay_core.h
// One end of the relay's protocol without any input or output: it says where the next bytes from
// the peer go and what is to be written, as spans, so that payloads move directly between a socket
// and their place in memory. Driven by wire/relay_pump.h, by tests and by fuzzers.
//
// One thread at a time; the spans stay valid while that thread reads or writes without the lock
// that guards the core, until the matching did_read() or did_write().
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <deque>
#include <span>

#include "base/error.h"

namespace tempo {

// What is to be written next, in order.
struct RelayWrites {
  static constexpr std::size_t kMax = 16;
  std::array<std::span<const std::byte>, kMax> spans;
  std::size_t count = 0;

  // False: there is no room for more.
  bool add(std::span<const std::byte> span) {
    if (count == kMax) return false;
    if (!span.empty()) spans[count++] = span;
    return true;
  }
};

// What waits to be written: frames, each with what follows it. Tag: what the owner wants to know
// once an item is written completely.
template <class Frame, class Tag>
class RelayOutbox {
 public:
  void push(const Frame& frame, std::span<const std::byte> body, const Tag& tag) {
    items_.push_back({frame, body, tag});
  }
  bool empty() const { return items_.empty(); }
  std::size_t size() const { return items_.size(); }

  RelayWrites writes() const {
    RelayWrites writes;
    std::size_t skip = written_;
    for (const Item& item : items_) {
      for (const std::span<const std::byte> part :
           {std::span<const std::byte>(item.frame), item.body}) {
        const std::size_t skipped = std::min(skip, part.size());
        skip -= skipped;
        if (!writes.add(part.subspan(skipped))) return writes;
      }
    }
    return writes;
  }
  // `bytes` of writes() were written: calls on_written(tag) for each item that is complete now.
  template <class OnWritten>
  void wrote(std::size_t bytes, OnWritten on_written) {
    written_ += bytes;
    while (!items_.empty()) {
      const std::size_t whole = items_.front().frame.size() + items_.front().body.size();
      if (written_ < whole) return;
      written_ -= whole;
      on_written(items_.front().tag);
      items_.pop_front();
    }
  }

 private:
  struct Item {
    Frame frame;
    std::span<const std::byte> body;
    Tag tag;
  };
  std::deque<Item> items_;   // never moved while they are written
  std::size_t written_ = 0;  // bytes of the first
};

class RelayCore {
 public:
  virtual ~RelayCore() = default;

  // Empty: there is no place for more now.
  virtual std::span<std::byte> want_read() = 0;
  // `bytes` of what want_read() named have arrived. Error kProtocol: the peer broke the protocol.
  virtual Status did_read(std::size_t bytes) = 0;

  // No spans: nothing to write now.
  virtual RelayWrites want_write() const = 0;
  virtual void did_write(std::size_t bytes) = 0;
  // Whether the peer's next bytes may answer something that is not known as written yet: then
  // did_write() of what has been written comes before did_read().
  virtual bool awaits_own_write() const = 0;
  // Says that this end is alive, when there is nothing else to write.
  virtual void say_alive() = 0;
};

}  // namespace tempo
