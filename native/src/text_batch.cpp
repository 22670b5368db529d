#include "text_batch.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

namespace howdah::text {

Encoded::~Encoded() { std::free(ids); }

void run_on_threads(size_t n, int threads, const std::function<void(size_t, int)>& body) {
  std::atomic<size_t> taken{0};
  std::mutex mutex;
  std::exception_ptr failure;
  const auto work = [&](int thread) {
    try {
      for (size_t i; (i = taken.fetch_add(1)) < n;) body(i, thread);
    } catch (...) {
      taken.store(n);
      std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  std::vector<std::thread> helpers;
  for (int t = 1; t < threads && size_t(t) < n; t++) helpers.emplace_back(work, t);
  work(0);
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
}

void encode_spans(const std::vector<Span>& spans, size_t documents, size_t size, int threads,
                  const std::function<void(const Span&, int, std::vector<uint32_t>&)>& encode, Encoded& out) {
  std::vector<size_t> groups{0};
  size_t bytes = 0;
  for (size_t i = 0; i < spans.size(); i++) {
    bytes += size_t(spans[i].stop - spans[i].begin);
    if (bytes >= size || i + 1 == spans.size()) {
      groups.push_back(i + 1);
      bytes = 0;
    }
  }
  const size_t group_count = groups.size() - 1;
  std::vector<std::vector<uint32_t>> parts(group_count);
  std::vector<size_t> span_ids(spans.size());
  run_on_threads(group_count, std::max(1, std::min<int>(threads, int(group_count))), [&](size_t g, int thread) {
    // Collected in a buffer of the thread's own and copied to size: growth is paid once.
    thread_local std::vector<uint32_t> collected;
    collected.clear();
    for (size_t i = groups[g]; i < groups[g + 1]; i++) {
      const size_t before = collected.size();
      encode(spans[i], thread, collected);
      span_ids[i] = collected.size() - before;
    }
    parts[g].assign(collected.begin(), collected.end());
  });

  size_t total = 0;
  for (const auto& part : parts) total += part.size();
  out.ids = static_cast<uint32_t*>(std::malloc(std::max<size_t>(total, 1) * sizeof(uint32_t)));
  if (!out.ids) throw std::bad_alloc();
  out.count = total;
  size_t at = 0;
  for (auto& part : parts) {
    if (!part.empty()) std::memcpy(out.ids + at, part.data(), part.size() * sizeof(uint32_t));
    at += part.size();
    part = {};
  }
  out.ends.assign(documents, 0);
  for (size_t i = 0; i < spans.size(); i++) out.ends[spans[i].document] += double(span_ids[i]);
  for (size_t d = 1; d < documents; d++) out.ends[d] += out.ends[d - 1];
}

}  // namespace howdah::text
