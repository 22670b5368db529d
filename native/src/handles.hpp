#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "error.hpp"

namespace howdah {

/**
 * A table of things that JavaScript knows by number. A handle is a slot and its generation, so that a stale one is an error and never
 * somebody else's slot.
 */
template <class T>
class Handles {
 public:
  double add(T value) {
    uint32_t slot;
    if (free_.empty()) {
      slot = uint32_t(slots_.size());
      slots_.emplace_back();
    } else {
      slot = free_.back();
      free_.pop_back();
    }
    slots_[slot].value = std::move(value);
    slots_[slot].used = true;
    count_ += 1;
    return double(slots_[slot].generation) * kSlots + slot;
  }
  T& get(double handle) { return find(handle).value; }
  T take(double handle) {
    Slot& slot = find(handle);
    T value = std::move(slot.value);
    slot.value = T();
    slot.used = false;
    slot.generation = (slot.generation + 1) % (1 << 20);
    free_.push_back(uint32_t(&slot - slots_.data()));
    count_ -= 1;
    return value;
  }
  void clear() {
    slots_.clear();
    free_.clear();
    count_ = 0;
  }
  int64_t count() const { return count_; }

 private:
  static constexpr double kSlots = 4294967296.0;
  struct Slot {
    T value{};
    uint32_t generation = 1;
    bool used = false;
  };
  Slot& find(double handle) {
    const double generation = handle >= 0 && handle < 9007199254740992.0 ? double(uint64_t(handle / kSlots)) : 0;
    const double slot = handle - generation * kSlots;
    if (!(slot >= 0) || slot >= double(slots_.size()) || slot != double(uint32_t(slot)))
      fail("This tensor memory or program does not belong to the native backend of this thread.");
    Slot& found = slots_[uint32_t(slot)];
    if (!found.used || double(found.generation) != generation) fail("This tensor memory or program was already released.");
    return found;
  }
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  int64_t count_ = 0;
};

}  // namespace howdah
