#include "text_trie.hpp"

#include <algorithm>
#include <array>

namespace howdah::text {

void Trie::build(std::vector<std::pair<std::string_view, uint32_t>> strings) {
  const auto before = [](const auto& a, const auto& b) { return a.first < b.first; };
  if (!std::is_sorted(strings.begin(), strings.end(), before)) std::stable_sort(strings.begin(), strings.end(), before);
  nodes.assign(1024, Node{});
  nodes[0].parent = 0;  // the root is its own, so that nothing takes its slot
  size_t first_free = 1;

  struct Range {
    size_t begin, end, depth;
    uint32_t node;
  };
  std::vector<Range> waiting{{0, strings.size(), 0, 0}};
  std::array<uint8_t, 256> bytes;
  std::array<size_t, 257> starts;
  while (!waiting.empty()) {
    auto [begin, end, depth, node] = waiting.back();
    waiting.pop_back();
    for (; begin < end && strings[begin].first.size() == depth; begin++)
      if (depth) nodes[node].value = strings[begin].second;
    size_t count = 0;
    for (size_t i = begin; i < end; i++) {
      const auto byte = uint8_t(strings[i].first[depth]);
      if (count && bytes[count - 1] == byte) continue;
      bytes[count] = byte;
      starts[count++] = i;
    }
    if (!count) continue;
    starts[count] = end;
    while (first_free < nodes.size() && nodes[first_free].parent != none) first_free++;
    // The first place where all children find free slots; many taken ones in a row are not looked at again.
    size_t base = first_free > bytes[0] ? first_free - bytes[0] : 1;
    size_t taken = 0;
    for (;; base++) {
      while (base + 256 >= nodes.size()) nodes.resize(nodes.size() * 2);
      if (nodes[base + bytes[0]].parent != none) {
        taken++;
        continue;
      }
      bool fits = true;
      for (size_t c = 1; fits && c < count; c++) fits = nodes[base + bytes[c]].parent == none;
      if (fits) break;
      taken++;
    }
    if (taken > 256) first_free = std::max(first_free, base + bytes[0] - 64);
    nodes[node].base = uint32_t(base);
    for (size_t c = 0; c < count; c++) nodes[base + bytes[c]].parent = node;
    for (size_t c = 0; c < count; c++) waiting.push_back({starts[c], starts[c + 1], depth + 1, uint32_t(base + bytes[c])});
  }
  // Any byte may be added to any base.
  nodes.resize(nodes.size() + 256);
  nodes[0].parent = none;
}

}  // namespace howdah::text
