#include "worker/tensor_store.h"

#include <utility>

namespace tempo {

DeviceMatrix* TensorStore::find(std::uint64_t id) {
  const auto at = matrices_.find(id);
  return at == matrices_.end() ? nullptr : at->second.get();
}

std::uint64_t TensorStore::excess(std::uint64_t id, std::uint64_t bytes) const {
  const auto at = matrices_.find(id);
  const std::uint64_t kept = bytes_ - (at == matrices_.end() ? 0 : at->second->bytes());
  if (at == matrices_.end() && matrices_.size() >= limits_.ids) return bytes;
  // kept <= limits_.bytes always, so nothing here can wrap.
  const std::uint64_t room = limits_.bytes - kept;
  return bytes > room ? bytes - room : 0;
}

void TensorStore::insert(std::uint64_t id, std::unique_ptr<DeviceMatrix> matrix) {
  auto& place = matrices_[id];
  if (place) bytes_ -= place->bytes();
  bytes_ += matrix->bytes();
  place = std::move(matrix);
}

void TensorStore::drop(std::uint64_t first, std::uint64_t last) {
  if (first > last) return;
  const auto end = matrices_.upper_bound(last);
  for (auto at = matrices_.lower_bound(first); at != end; at = matrices_.erase(at)) {
    bytes_ -= at->second->bytes();
  }
}

void TensorStore::clear() {
  matrices_.clear();
  bytes_ = 0;
}

}  // namespace tempo
