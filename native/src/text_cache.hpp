// What tokenizers remember: a hash of bytes, and what short words became.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace howdah::text {

inline uint64_t hash_bytes(const uint8_t* p, size_t n) {
  uint64_t h = n * 0x9e3779b97f4a7c15ull;
  for (; n >= 8; p += 8, n -= 8) {
    uint64_t x;
    std::memcpy(&x, p, 8);
    h = (std::rotl(h, 29) ^ x) * 0xbf58476d1ce4e5b9ull;
  }
  uint64_t x = 0;
  std::memcpy(&x, p, n);
  h = (std::rotl(h, 29) ^ x) * 0xbf58476d1ce4e5b9ull;
  return h ^ h >> 32;
}

/** What words became, one entry a cache line. A word takes the place of another with the same slot. */
class WordCache {
 public:
  static constexpr size_t longest = 24, most_ids = 9;

  struct alignas(64) Entry {
    uint64_t key[3];
    uint8_t length;  // 0: empty
    uint8_t count;
    uint16_t unused;
    uint32_t ids[most_ids];
  };
  static_assert(sizeof(Entry) == 64);

  struct Key {
    uint64_t part[3];
  };

  /** @param safe whether 24 bytes from `word` on may be read */
  static Key key_of(const uint8_t* word, size_t n, bool safe) {
    Key key{};
    if (!safe) {
      std::memcpy(key.part, word, n);
      return key;
    }
    const auto load = [word](size_t i) {
      uint64_t x;
      std::memcpy(&x, word + 8 * i, 8);
      return x;
    };
    const auto low = [](uint64_t x, size_t bytes) { return x & ~0ull >> (64 - 8 * bytes); };
    if (n <= 8) {
      key.part[0] = low(load(0), n);
    } else if (n <= 16) {
      key.part[0] = load(0);
      key.part[1] = low(load(1), n - 8);
    } else {
      key.part[0] = load(0);
      key.part[1] = load(1);
      key.part[2] = low(load(2), n - 16);
    }
    return key;
  }

  Entry& slot(const Key& key, size_t n) {
    const uint64_t mixed = (key.part[0] ^ key.part[2] * 0x9fb21c651e98df25ull) * 0x9e3779b97f4a7c15ull +
                           (key.part[1] + n) * 0xd6e8feb86659fd93ull;
    return entries[(mixed ^ mixed >> 29) * 0xbf58476d1ce4e5b9ull >> (64 - bits)];
  }

  static bool holds(const Entry& entry, const Key& key, size_t n) {
    return entry.length == n && entry.key[0] == key.part[0] && entry.key[1] == key.part[1] && entry.key[2] == key.part[2];
  }

 private:
  static constexpr int bits = 15;
  std::vector<Entry> entries = std::vector<Entry>(size_t(1) << bits);
};

/** Caches wait here between calls, so that what one text taught helps with the next. */
class CachePool {
 public:
  std::unique_ptr<WordCache> borrow() {
    std::lock_guard lock(mutex);
    if (idle.empty()) return std::make_unique<WordCache>();
    std::unique_ptr<WordCache> cache = std::move(idle.back());
    idle.pop_back();
    return cache;
  }
  void give_back(std::unique_ptr<WordCache> cache) {
    std::lock_guard lock(mutex);
    idle.push_back(std::move(cache));
  }

 private:
  std::mutex mutex;
  std::vector<std::unique_ptr<WordCache>> idle;
};

}  // namespace howdah::text
