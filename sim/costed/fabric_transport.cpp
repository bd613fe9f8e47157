#include "sim/costed/fabric_transport.h"

#include <algorithm>

#include "base/check.h"

namespace orrery {

const fabric::Figure kv_transfer_floor{
    10e-6, fabric::FigureKind::published,
    "p2p_latency of ai-dynamo/aiconfigurator's system files @095f58a (h200_sxm.yaml and others), whose "
    "authors call it an unofficial correction from observations"};

namespace {
constexpr std::uint64_t keys_per_request = 1 << 16;  // rank pairs of a request, at most
constexpr auto ends_later = [](const auto& a, const auto& b) {
  return a.at != b.at ? a.at > b.at : a.request > b.request;
};
}  // namespace

FabricTransport::FabricTransport(const fabric::Topology& topology, std::vector<Seat> seats,
                                 const Model& model, SimDuration floor)
    : topology_(topology), seats_(std::move(seats)), model_(model), floor_(floor), flows_(topology) {}

const std::vector<RankPair>& FabricTransport::pairs(std::int32_t from_tp, std::int32_t to_tp) {
  for (const Pairs& known : known_pairs_) {
    if (known.from_tp == from_tp && known.to_tp == to_tp) return known.pairs;
  }
  known_pairs_.push_back({from_tp, to_tp, rank_pairs(from_tp, to_tp, model_.kv_heads, model_.latent)});
  return known_pairs_.back().pairs;
}

void FabricTransport::begin(const KvPull& pull, SimTime now) {
  if (pull.blocks == 0) return end(pull.request, now);
  const Seat &from = seats_[pull.from.value()], &to = seats_[pull.to.value()];
  const auto& between =
      pairs(static_cast<std::int32_t>(from.gpus.size()), static_cast<std::int32_t>(to.gpus.size()));
  ORRERY_CHECK(between.size() < keys_per_request, "rank pairs of a pull");
  ++pulls_;
  std::uint64_t key = pull.request.value() * keys_per_request;
  Open& open = open_[pull.request.value()];
  open.flows.clear();
  for (const RankPair& pair : between) {
    const std::int64_t bytes = pull.blocks * to.bytes_per_block / pair.parts;
    const auto flow = flows_.add({.from = from.gpus[static_cast<std::size_t>(pair.from)],
                                  .to = to.gpus[static_cast<std::size_t>(pair.to)],
                                  .bytes = bytes,
                                  .key = key++},
                                 now);
    if (!flow.ok()) {
      ORRERY_CHECK(!cut_.empty(), "ways between all seats were looked for before");
      return lose(pull.request, now);
    }
    open.flows.push_back(*flow);
    bytes_ += bytes;
  }
  open.left = static_cast<std::int32_t>(between.size());
}

void FabricTransport::cancel(RequestId request, SimTime now) {
  if (const auto it = open_.find(request.value()); it != open_.end()) {
    for (const fabric::FlowId flow : it->second.flows) flows_.remove(flow, now);
    open_.erase(it);
  }
  std::erase_if(endings_, [&](const Ending& e) { return e.request == request; });
  std::make_heap(endings_.begin(), endings_.end(), ends_later);
}

// Some of its bytes find no way; what the others still carry is for nobody.
void FabricTransport::lose(RequestId request, SimTime now) {
  cancel(request, now);
  endings_.push_back({.at = now, .request = request, .lost = true});
  std::push_heap(endings_.begin(), endings_.end(), ends_later);
}

void FabricTransport::set_link(std::uint32_t link, double factor, SimTime now) {
  const fabric::LinkId id(link);
  if (cut_.empty()) cut_.assign(topology_.link_count(), false);
  if (factor == 0) {
    cut_[link] = true;
    std::vector<RequestId> lost;
    for (const fabric::CutFlow& flow : flows_.fail(id, now).cut)
      lost.emplace_back(flow.key / keys_per_request);
    lost.erase(std::unique(lost.begin(), lost.end()), lost.end());
    for (const RequestId request : lost) lose(request, now);
    return;
  }
  // Both directions of a cable are cut and mended together.
  if (cut_[link]) {
    flows_.restore(id, now);
    cut_[link] = false;
  }
  flows_.degrade(id, factor, now);
}

void FabricTransport::end(RequestId request, SimTime at) {
  endings_.push_back({.at = at + floor_, .request = request});
  std::push_heap(endings_.begin(), endings_.end(), ends_later);
}

SimTime FabricTransport::next_event() {
  const SimTime ending = endings_.empty() ? SimTime::never() : endings_.front().at;
  return open_.empty() ? ending : earlier(ending, flows_.next_end());
}

void FabricTransport::collect(SimTime now, std::vector<KvPullDone>& done) {
  if (!open_.empty() && flows_.next_end() <= now) {
    for (const fabric::Arrival& arrival : flows_.advance(now)) {
      const RequestId request(arrival.key / keys_per_request);
      const auto it = open_.find(request.value());
      if (--it->second.left > 0) continue;
      open_.erase(it);
      end(request, arrival.at);
    }
  }
  while (!endings_.empty() && endings_.front().at <= now) {
    std::pop_heap(endings_.begin(), endings_.end(), ends_later);
    done.push_back({endings_.back().request, endings_.back().at, endings_.back().lost});
    endings_.pop_back();
  }
}

void FabricTransport::report(SimDuration span, KvTransferResult& result) const {
  result.pulls = pulls_;
  result.bytes = bytes_;
  const double seconds = span.seconds();
  for (std::size_t i = 0; i < topology_.link_count(); ++i) {
    const fabric::LinkId id(static_cast<std::uint32_t>(i));
    const fabric::Link& link = topology_.link(id);
    const std::string name = to_string(link.link_class);
    auto of_class = std::find_if(result.links.begin(), result.links.end(),
                                 [&](const KvTransferResult::Links& l) { return l.link_class == name; });
    if (of_class == result.links.end()) {
      result.links.emplace_back();
      of_class = result.links.end() - 1;
      of_class->link_class = name;
    }
    const std::int64_t bytes = flows_.link_bytes(id);
    if (bytes == 0) continue;
    const double use =
        seconds > 0 ? static_cast<double>(bytes) / (static_cast<double>(link.bytes_per_second) * seconds) : 0;
    ++of_class->used;
    of_class->bytes += bytes;
    of_class->utilization += use;
    if (use > of_class->busiest_utilization) {
      of_class->busiest_utilization = use;
      of_class->busiest = topology_.device(link.from).name + " to " + topology_.device(link.to).name;
    }
  }
  std::erase_if(result.links, [](const KvTransferResult::Links& l) { return l.used == 0; });
  for (KvTransferResult::Links& l : result.links) l.utilization /= static_cast<double>(l.used);
}

}  // namespace orrery
