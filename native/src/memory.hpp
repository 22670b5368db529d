#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

namespace howdah {

struct Slab;

/**
 * A piece of tensor memory, 64-byte aligned, on huge pages where it is large enough for that to matter. The first touch of
 * fresh pages is slower than any kernel that reads them, so freed blocks are kept by size class and handed out again.
 */
struct Block {
  void* data = nullptr;
  /** What the owner asked for, and what the block holds. */
  size_t bytes = 0;
  size_t capacity = 0;
  int size_class = 0;
  /** Where the block was cut from, if it was. */
  Slab* slab = nullptr;
  std::atomic<int64_t> references{1};
  /**
   * Why the contents are not to be used: the run that should have written them failed. Written and read on the executor thread only;
   * travels from a run's inputs to its outputs.
   */
  std::shared_ptr<const std::string> failure;
};

/** A counted reference to a block: the block goes back to the pool when JavaScript and all queued work have let go. */
class BlockRef {
 public:
  BlockRef() = default;
  explicit BlockRef(Block* adopted) : block_(adopted) {}
  BlockRef(const BlockRef& other) : block_(other.block_) {
    if (block_) block_->references.fetch_add(1, std::memory_order_relaxed);
  }
  BlockRef(BlockRef&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  BlockRef& operator=(BlockRef other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~BlockRef();
  Block* get() const { return block_; }
  Block* operator->() const { return block_; }
  explicit operator bool() const { return block_ != nullptr; }

 private:
  Block* block_ = nullptr;
};

/** A block of at least `bytes`, contents undefined. Throws Error when the system has no memory left. Any thread. */
BlockRef allocate(size_t bytes);

struct MemoryStats {
  int64_t live_buffers, live_bytes, peak_bytes, cached_bytes, system_bytes;
};
MemoryStats memory_stats();
/** Starts a new measurement of `peak_bytes`. */
void reset_peak();
/** Gives all free blocks back to the system. */
void trim();

}  // namespace howdah
