#include "costmodel/price_table.h"

#include <algorithm>
#include <bit>

#include "base/digest.h"
#include "costmodel/pricer_state.h"

namespace orrery {

namespace {

thread_local std::pair<PriceTableShelf*, std::string> current{nullptr, {}};

void add_number(double value, Digest& digest) { digest.add(std::bit_cast<std::uint64_t>(value)); }

// Operators and their shapes, the part, and what a few sums come to.
std::string signature(const InstanceSpec& spec, const PricerState& state) {
  Digest digest;
  digest.add_text(spec.hardware.name);
  digest.add_text(spec.engine.name);
  digest.add_text(spec.model.name);
  for (std::size_t i = 0; i < state.nodes.size(); ++i) {
    const GraphNode& node = state.nodes[i];
    const OpSpec& op = node.spec;
    digest.add_text(node.name);
    digest.add_text(node.entry->name);
    digest.add_text(op.format.label);
    digest.add_text(op.variant);
    for (const std::int64_t value : {node.count, op.n, op.k, op.heads, op.kv_heads, op.head_dim, op.window,
                                     std::int64_t{op.ranks}, static_cast<std::int64_t>(op.depends_on)})
      digest.add(value);
    add_number(state.weights[i], digest);
  }
  for (const std::int64_t count : {1, 7, 64, 300, 1111, 5000}) {
    add_number(state.sum_tokens(count), digest);
    add_number(state.sum_rows(count), digest);
  }
  return digest_text(digest.value());
}

bool by_graph_alone(const InstanceSpec& spec, const PricerState& state) {
  return spec.stage.of == 1 && state.expert_loads == nullptr && state.padding.ranks() == 1 &&
         !state.exchanges && !spec.engine.settings.context.on() && !state.side.on &&
         state.draft_table.empty();
}

}  // namespace

PriceTableShelf::Tables PriceTableShelf::find(const std::string& key) {
  const std::scoped_lock lock(mutex_);
  if (const auto known = tables_.find(key); known != tables_.end()) {
    ++shared_;
    return known->second;
  }
  if (tables_.size() >= most_) {
    tables_.erase(std::min_element(tables_.begin(), tables_.end(), [](const auto& a, const auto& b) {
      return a.second.number < b.second.number;
    }));
  }
  const Tables fresh{PriceTable::create(), PriceTable::create(), PriceTable::create(), made_++};
  return tables_.emplace(key, fresh).first->second;
}

std::uint64_t PriceTableShelf::shared() const {
  const std::scoped_lock lock(mutex_);
  return shared_;
}

PriceTableScope::PriceTableScope(PriceTableShelf& shelf, std::string graph)
    : before_(std::exchange(current, {&shelf, std::move(graph)})) {}

PriceTableScope::~PriceTableScope() { current = std::move(before_); }

void share_price_tables(const InstanceSpec& spec, PricerState& state) {
  if (current.first == nullptr || !by_graph_alone(spec, state)) return;
  const PriceTableShelf::Tables tables = current.first->find(current.second + '\n' + signature(spec, state));
  state.token_table = tables.tokens;
  state.row_table = tables.rows;
  state.last_table = tables.last;
}

}  // namespace orrery
