#include "memory.hpp"

#include <bit>
#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "error.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

namespace howdah {

/**
 * Blocks of a middle size are cut from slabs of huge pages: on pages of 4 KB of their own, the processor would stop fetching ahead
 * every 64 lines, and a layer's matrices would be read at half of the speed of large ones.
 */
struct Slab {
  std::byte* data;
  size_t used = 0;
  int64_t live = 0;
};

namespace {

constexpr size_t kSmallAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;
/** Classes are 2^e * (8..15) / 8: at most 12.5 % of a block is slack. */
constexpr int kStepsPerDoubling = 8;
constexpr int kClasses = 48 * kStepsPerDoubling;
/** Free memory kept for reuse beyond the larger of this and half of what is in use goes back to the system. */
constexpr int64_t kKeepBytes = int64_t{256} << 20;

struct SizeClass {
  int index;
  size_t capacity;
};

SizeClass size_class(size_t bytes) {
  if (bytes <= 512) {
    const size_t units = bytes == 0 ? 1 : (bytes + 63) / 64;
    return {int(units) - 1, units * 64};
  }
  const int exponent = std::bit_width(bytes - 1) - 1;  // 2^exponent <= bytes - 1 < 2^(exponent + 1)
  const size_t step = (size_t{1} << exponent) / kStepsPerDoubling;
  const size_t steps = (bytes - (size_t{1} << exponent) + step - 1) / step;  // 1..8
  return {(exponent - 8) * kStepsPerDoubling + int(steps) - 1, (size_t{1} << exponent) + steps * step};
}

void* system_allocate(size_t capacity) {
#if defined(_WIN32)
  return _aligned_malloc(capacity, kSmallAlignment);
#else
  const size_t alignment = capacity >= kHugePage ? kHugePage : kSmallAlignment;
  void* data = nullptr;
  if (posix_memalign(&data, alignment, capacity) != 0) return nullptr;
#if defined(__linux__)
  if (capacity >= kHugePage) madvise(data, capacity & ~(kHugePage - 1), MADV_HUGEPAGE);
#endif
  return data;
#endif
}

void system_free(void* data) {
#if defined(_WIN32)
  _aligned_free(data);
#else
  std::free(data);
#endif
}

constexpr size_t kSlabBytes = size_t{16} << 20;
constexpr size_t kSlabLeast = size_t{32} << 10, kSlabMost = size_t{4} << 20;
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
constexpr bool kSlabs = true;
#else
constexpr bool kSlabs = false;
#endif

struct Pool {
  std::mutex mutex;
  /** Cut from slabs and given up; their memory is with the system where they hold whole pages. */
  struct Hole {
    Slab* slab;
    void* data;
  };
  std::vector<Hole> holes[kClasses];
  Slab* open = nullptr;
  std::vector<Block*> free[kClasses];
  int64_t live_buffers = 0, live_bytes = 0, peak_bytes = 0, cached_bytes = 0, system_bytes = 0;

  void drop(Block* block) {
    cached_bytes -= int64_t(block->capacity);
    system_bytes -= int64_t(block->capacity);
    if (block->slab) give_up(block);
    else system_free(block->data);
    delete block;
  }

  /** Memory of the system, or null. */
  void* obtain(const SizeClass& wanted, Slab*& slab) {
    slab = nullptr;
    if (!kSlabs || wanted.capacity < kSlabLeast || wanted.capacity > kSlabMost) return system_allocate(wanted.capacity);
    if (auto& list = holes[wanted.index]; !list.empty()) {
      const Hole hole = list.back();
      list.pop_back();
      slab = hole.slab;
      slab->live++;
      return hole.data;
    }
    if (!open || open->used + wanted.capacity > kSlabBytes) {
      std::byte* const data = static_cast<std::byte*>(system_allocate(kSlabBytes));
      if (!data) return nullptr;
      Slab* const full = std::exchange(open, new Slab{data});
      if (full && full->live == 0) release(full);
    }
    slab = open;
    slab->live++;
    return slab->data + std::exchange(slab->used, slab->used + wanted.capacity);
  }

  void give_up(Block* block) {
    Slab* const slab = block->slab;
    holes[block->size_class].push_back({slab, block->data});
    if (--slab->live == 0 && slab != open) return release(slab);
#if defined(__linux__)
    // Blocks of 256 KB and more: smaller ones would tear a huge page apart for little.
    constexpr size_t page = 4096;
    if (block->capacity < (size_t{256} << 10)) return;
    const size_t from = (reinterpret_cast<size_t>(block->data) + page - 1) & ~(page - 1);
    const size_t to = (reinterpret_cast<size_t>(block->data) + block->capacity) & ~(page - 1);
    madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
#endif
  }

  void release(Slab* slab) {
    for (auto& list : holes) std::erase_if(list, [&](const Hole& hole) { return hole.slab == slab; });
    system_free(slab->data);
    delete slab;
  }

  /** Frees cached blocks, largest first, until at most `keep` bytes stay cached. */
  void shrink(int64_t keep) {
    for (int index = kClasses - 1; index >= 0 && cached_bytes > keep; --index)
      while (!free[index].empty() && cached_bytes > keep) {
        drop(free[index].back());
        free[index].pop_back();
      }
  }
};

/** Never destroyed: threads may still release blocks while the process exits. */
Pool& pool() {
  static Pool* instance = new Pool;
  return *instance;
}

}  // namespace

BlockRef allocate(size_t bytes) {
  if (bytes > (size_t{1} << 46)) fail("A tensor of ", bytes, " bytes is larger than any memory. Check the shapes that led to it.");
  const SizeClass wanted = size_class(bytes);
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  Block* block = nullptr;
  auto& list = p.free[wanted.index];
  if (!list.empty()) {
    block = list.back();
    list.pop_back();
    p.cached_bytes -= int64_t(block->capacity);
  } else {
    Slab* slab = nullptr;
    void* data = p.obtain(wanted, slab);
    if (!data) {
      p.shrink(0);
      data = p.obtain(wanted, slab);
    }
    if (!data)
      fail("The system has no memory for another ", wanted.capacity >> 20, " MB (", p.live_bytes >> 20,
           " MB are in use). Make the batch or the model smaller, or dispose tensors that are no longer needed.");
    block = new Block;
    block->data = data;
    block->slab = slab;
    block->capacity = wanted.capacity;
    block->size_class = wanted.index;
    p.system_bytes += int64_t(wanted.capacity);
  }
  block->bytes = bytes;
  block->references.store(1, std::memory_order_relaxed);
  block->failure.reset();
  p.live_buffers += 1;
  p.live_bytes += int64_t(block->capacity);
  if (p.live_bytes > p.peak_bytes) p.peak_bytes = p.live_bytes;
  return BlockRef(block);
}

BlockRef::~BlockRef() {
  if (!block_ || block_->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  p.live_buffers -= 1;
  p.live_bytes -= int64_t(block_->capacity);
  p.cached_bytes += int64_t(block_->capacity);
  p.free[block_->size_class].push_back(block_);
  const int64_t keep = p.live_bytes / 2 > kKeepBytes ? p.live_bytes / 2 : kKeepBytes;
  if (p.cached_bytes > keep + keep / 4) p.shrink(keep);
}

MemoryStats memory_stats() {
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  return {p.live_buffers, p.live_bytes, p.peak_bytes, p.cached_bytes, p.system_bytes};
}

void reset_peak() {
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  p.peak_bytes = p.live_bytes;
}

void trim() {
  Pool& p = pool();
  std::lock_guard lock(p.mutex);
  p.shrink(0);
}

}  // namespace howdah
