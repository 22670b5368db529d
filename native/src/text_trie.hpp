// A set of byte strings as a double array: the child of node n by byte b is base[n] + b, if that slot's parent is n (Aoe 1989).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace howdah::text {

class Trie {
 public:
  static constexpr uint32_t none = 0xffffffffu;

  struct Node {
    uint32_t base = 0;
    uint32_t parent = none;
    uint32_t value = none;
  };

  /** Of two equal strings the later one counts; empty ones are left out. */
  void build(std::vector<std::pair<std::string_view, uint32_t>> strings);

  /** The root is 0. `none` where there is no such child. */
  uint32_t step(uint32_t node, uint8_t byte) const {
    const uint32_t to = nodes[node].base + byte;
    return nodes[to].parent == node ? to : none;
  }
  uint32_t value(uint32_t node) const { return nodes[node].value; }

 private:
  std::vector<Node> nodes = std::vector<Node>(257);
};

}  // namespace howdah::text
