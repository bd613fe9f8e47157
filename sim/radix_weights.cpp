// The order of a queue by the tree (`_dfs_weight_order`, mem_cache/base_prefix_cache.py of SGLang 0.5.23).
#include <algorithm>
#include <map>

#include "sim/radix_cache.h"

namespace orrery {

std::vector<std::size_t> RadixCache::weight_order(std::span<const Node> ends) const {
  struct Place {
    std::int64_t weight = 0;  // ends in its subtree
    std::vector<std::size_t> own;
    std::vector<Node> children;
  };
  std::map<Node, Place> places;
  places[root];
  for (std::size_t i = 0; i < ends.size(); ++i) {
    places[ends[i]].own.push_back(i);
    for (Node id = ends[i]; id != root; id = nodes_[id].parent) {
      if (places[id].weight++ == 0) places[nodes_[id].parent].children.push_back(id);
    }
  }
  std::vector<std::size_t> order;
  std::vector<std::pair<Node, bool>> stack{{root, false}};
  while (!stack.empty()) {
    const auto [node, visited] = stack.back();
    stack.pop_back();
    Place& place = places[node];
    if (visited) {
      order.insert(order.end(), place.own.begin(), place.own.end());
      continue;
    }
    stack.emplace_back(node, true);
    // The lightest is pushed first; of equals the one that came last to its parent.
    std::sort(place.children.begin(), place.children.end(), [&](Node a, Node b) {
      return std::pair(places[a].weight, -nodes_[a].born) < std::pair(places[b].weight, -nodes_[b].born);
    });
    for (const Node child : place.children) stack.emplace_back(child, false);
  }
  return order;
}

}  // namespace orrery
