#include "sim/costed/fabric_transport.h"

#include <algorithm>
#include <utility>

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
    : topology_(topology), seats_(std::move(seats)), gone_(seats_.size(), false), model_(model),
      floor_(floor), flows_(topology) {
  for (const Seat& seat : seats_) reader_free_.emplace_back(static_cast<std::size_t>(seat.ranks));
}

const std::vector<RankPair>& FabricTransport::pairs(InstanceId from, InstanceId to) const {
  const Seat &a = seats_[from.value()], &b = seats_[to.value()];
  const bool whole = model_.latent || a.embeds;
  for (const Pairs& known : known_pairs_) {
    if (known.whole == whole && known.from_tp == a.tp() && known.to_tp == b.tp() &&
        known.from_layers == a.layers && known.to_layers == b.layers)
      return known.pairs;
  }
  known_pairs_.push_back({a.tp(), b.tp(), whole, a.layers, b.layers,
                          stage_pairs(a.tp(), a.layers, b.tp(), b.layers, model_.kv_heads, whole)});
  ORRERY_CHECK(known_pairs_.back().pairs.size() < keys_per_request, "rank pairs of a request");
  return known_pairs_.back().pairs;
}

// Of the decode rank that takes longest over its descriptors: as NIXL does between nodes where some of them
// stand on another.
template <class Time>
SimDuration FabricTransport::slowest_reader(const KvPull& pull, Time time) const {
  const Seat &from = seats_[pull.from.value()], &to = seats_[pull.to.value()];
  SimDuration most(0);
  if (to.nixl == nullptr || from.embeds) return most;
  const auto width = static_cast<std::size_t>(to.width());
  std::vector<std::int64_t> posted(width);
  std::vector<bool> far(width);
  for (const RankPair& pair : pairs(pull.from, pull.to)) {
    const auto node = [&](const Seat& seat, std::int32_t rank, std::int32_t in_rank) {
      return topology_.device(seat.gpu(rank, in_rank)).node;
    };
    const auto r = static_cast<std::size_t>(pair.to);
    posted[r] += pull.blocks * to.regions * pair.layers / pair.of_layers;
    if (node(from, pull.from_rank, pair.from) != node(to, pull.to_rank, pair.to)) far[r] = true;
  }
  for (std::size_t r = 0; r < width; ++r) {
    if (posted[r] == 0) continue;
    most = std::max(most, time(far[r] ? to.nixl->between_nodes : to.nixl->in_node, posted[r]));
  }
  return most;
}

SimDuration FabricTransport::posting(const KvPull& pull) const {
  return slowest_reader(pull, [](const NixlReads& reads, std::int64_t n) { return reads.posting(n); });
}

void FabricTransport::begin(const KvPull& pull, SimTime now) {
  if (pull.blocks == 0) return end(pull.request, now);
  pump(now);
  const SimDuration reading =
      slowest_reader(pull, [](const NixlReads& reads, std::int64_t n) { return reads.reading(n); });
  Open& o = open(pull.request, pull.from, pull.to);
  if (reading > SimDuration(0)) {
    SimTime& reader = reader_free_[pull.to.value()][static_cast<std::size_t>(pull.to_rank)];
    reader = later(later(reader, pull.posted_from), now) + reading;
    o.not_before = reader;
  }
  send({.request = pull.request,
        .from = pull.from,
        .to = pull.to,
        .blocks = pull.blocks,
        .first = 0,
        .last = 1,
        .of = 1,
        .from_rank = pull.from_rank,
        .to_rank = pull.to_rank},
       now);
}

void FabricTransport::send(const KvSend& part, SimTime now) {
  Open& o = open(part.request, part.from, part.to);
  o.from_rank = part.from_rank;
  o.to_rank = part.to_rank;
  if (gone_[part.from.value()] || gone_[part.to.value()]) return fail(part.request, now);
  const auto& between = pairs(part.from, part.to);
  const std::int64_t whole = part.blocks * seats_[part.to.value()].bytes_per_block;
  const auto up_to = [&](std::int64_t place, const RankPair& pair) {
    const std::int64_t own = whole * pair.layers / pair.of_layers / pair.parts;
    return own * place / part.of;  // below 2^63: terabytes times a million parts
  };
  o.complete = part.last == part.of;
  for (std::size_t lane = 0; lane < between.size(); ++lane) {
    const std::int64_t bytes = up_to(part.last, between[lane]) - up_to(part.first, between[lane]);
    if (!push(part.request, o, lane, bytes, now)) return fail(part.request, now);
  }
  if (o.complete && o.busy == 0) {  // the parts before are all there, and this one was empty
    const SimTime at = later(now, o.not_before);
    open_.erase(part.request.value());
    end(part.request, at);
  }
}

FabricTransport::Open& FabricTransport::open(RequestId request, InstanceId from, InstanceId to) {
  const auto [it, is_new] = open_.try_emplace(request.value());
  if (is_new) {
    ++(seats_[from.value()].embeds ? embeds_ : pulls_);
    it->second.from = from;
    it->second.to = to;
    it->second.lanes.resize(pairs(from, to).size());
  }
  return it->second;
}

// False: no way is left. (Ways between all seats were looked for before; links may have been cut since.)
bool FabricTransport::push(RequestId request, Open& o, std::size_t place, std::int64_t bytes, SimTime now) {
  Lane& lane = o.lanes[place];
  lane.queued += bytes;
  if (lane.busy || lane.queued == 0) return true;
  const RankPair& pair = pairs(o.from, o.to)[place];
  const Seat &from = seats_[o.from.value()], &to = seats_[o.to.value()];
  // TensorRT-LLM, cpp/tensorrt_llm/batch_manager/mlaCacheFormatter.cpp: `pickRecvConnections`,
  // `needSendCache`.
  const std::int32_t copies = std::max(1, from.tp() / to.tp());
  const std::int32_t copy = model_.copies_in_turn && model_.latent ? o.to_rank % copies : 0;
  const auto flow = flows_.add({.from = from.gpu(o.from_rank, pair.from + copy),
                                .to = to.gpu(o.to_rank, pair.to),
                                .bytes = lane.queued,
                                .key = request.value() * keys_per_request + place},
                               now);
  if (!flow.ok()) return false;
  (seats_[o.from.value()].embeds ? embedded_bytes_ : bytes_) += std::exchange(lane.queued, 0);
  lane.flow = flow.value();
  lane.busy = true;
  ++o.busy;
  if (shared_) meet(lane.flow, now);
  return true;
}

SharedLinks& FabricTransport::share(std::vector<std::vector<LinkSide>> sides, Changed changed) {
  changed_ = std::move(changed);
  moves_.resize(sides.size());
  return shared_.emplace(flows_, topology_, std::move(sides));
}

void FabricTransport::meet(fabric::FlowId flow, SimTime now) {
  if (!flows_.active(flow)) return;  // no bytes
  const auto& kept = routes_[flow.value()] = flows_.links_of(flow);
  touched_.clear();
  shared_->begin(flow, kept, now, touched_);
  for (const InstanceId instance : touched_) changed_(instance, now);
}

void FabricTransport::part(fabric::FlowId flow, SimTime now) {
  const auto it = routes_.find(flow.value());
  if (it == routes_.end()) return;
  shared_->end(flow, it->second, now);
  routes_.erase(it);
}

void FabricTransport::end(RequestId request, SimTime at) {
  endings_.push_back({at + floor_, request, false});
  std::push_heap(endings_.begin(), endings_.end(), ends_later);
}

SimTime FabricTransport::next_event() {
  const SimTime ending = endings_.empty() ? SimTime::never() : endings_.front().at;
  return open_.empty() ? ending : earlier(ending, flows_.next_end());
}

void FabricTransport::arrived(const fabric::Arrival& arrival, SimTime now) {
  const RequestId request(arrival.key / keys_per_request);
  const auto it = open_.find(request.value());
  if (it == open_.end()) return;  // failed meanwhile
  Open& o = it->second;
  const std::size_t place = arrival.key % keys_per_request;
  o.lanes[place].busy = false;
  --o.busy;
  if (o.lanes[place].queued > 0) {
    if (!push(request, o, place, 0, now)) fail(request, now);
    return;
  }
  if (!o.complete || o.busy > 0) return;
  const SimTime at = later(arrival.at, o.not_before);
  open_.erase(it);
  end(request, at);
}

void FabricTransport::pump(SimTime now) {
  if (copies_) copies_->start_and_end(now);
  while (under_way() && flows_.next_end() <= now) {
    for (const fabric::Arrival& arrival : flows_.advance(now)) {
      if (shared_) part(arrival.flow, now);
      others_.contains(arrival.key) ? other_arrived(arrival) : arrived(arrival, now);
    }
    if (copies_) copies_->start_and_end(now);
  }
}

void FabricTransport::collect(SimTime now, std::vector<KvPullDone>& done) {
  pump(now);
  while (!endings_.empty() && endings_.front().at <= now) {
    std::pop_heap(endings_.begin(), endings_.end(), ends_later);
    done.push_back({endings_.back().request, endings_.back().at, endings_.back().failed});
    endings_.pop_back();
  }
}

// ------------------------------------------------------------------------------------------------- faults

void FabricTransport::forget(RequestId request, SimTime now) {
  if (take_out(request, now)) return;
  std::erase_if(endings_, [&](const Ending& e) { return e.request == request; });
  std::make_heap(endings_.begin(), endings_.end(), ends_later);
}

// False: nothing of it is under way.
bool FabricTransport::take_out(RequestId request, SimTime now) {
  const auto it = open_.find(request.value());
  if (it == open_.end()) return false;
  for (const Lane& lane : it->second.lanes) {
    if (!lane.busy) continue;
    flows_.remove(lane.flow, now);
    if (shared_) part(lane.flow, now);
  }
  open_.erase(it);
  return true;
}

void FabricTransport::fail(RequestId request, SimTime now) {
  if (!take_out(request, now)) return;
  ++failed_;
  endings_.push_back({now, request, true});
  std::push_heap(endings_.begin(), endings_.end(), ends_later);
}

void FabricTransport::fail_link(fabric::LinkId link, SimTime now) {
  pump(now);
  const fabric::FailedLink failed = flows_.fail(link, now);
  for (const fabric::FlowId flow : failed.rerouted) {
    if (!shared_) break;
    part(flow, now);
    meet(flow, now);
  }
  std::vector<RequestId> requests;
  for (const fabric::CutFlow& cut : failed.cut) {
    if (others_.contains(cut.key)) other_cut(cut, now);
    for (auto& [request, o] : open_) {
      for (Lane& lane : o.lanes) {
        if (!lane.busy || lane.flow != cut.flow) continue;
        lane.busy = false;  // it is gone already
        if (shared_) part(lane.flow, now);
        requests.push_back(RequestId(request));
      }
    }
  }
  for (const RequestId request : requests) fail(request, now);
}

void FabricTransport::set_link(std::uint32_t link, double factor, SimTime now) {
  const fabric::LinkId id(link);
  if (cut_.empty()) cut_.assign(topology_.link_count(), false);
  if (factor == 0) {
    cut_[link] = true;
    links_of_loads(id, true, now);
    fail_link(id, now);
    if (shared_) shared_->set_left(id, 0, now);
    return;
  }
  bool mended = false;
  // Both directions of a cable are cut and mended together.
  if (cut_[link]) {
    flows_.restore(id, now);
    cut_[link] = false;
    mended = true;
  }
  degrade(id, factor, now);
  if (mended) links_of_loads(id, false, now);
  if (shared_) shared_->set_left(id, factor, now);
}

void FabricTransport::fail_instance(InstanceId instance, SimTime now) {
  gone_[instance.value()] = true;
  std::vector<RequestId> requests;
  for (const auto& [request, o] : open_)
    if (o.from == instance || o.to == instance) requests.push_back(RequestId(request));
  for (const RequestId request : requests) fail(request, now);
}

void FabricTransport::report(SimDuration span, KvTransferResult& result) const {
  result.pulls = pulls_;
  result.failed = failed_;
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
