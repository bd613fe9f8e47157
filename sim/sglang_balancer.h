// SGLang's load-aware ways to choose a rank of attention data parallelism (`load_balance_method`:
// total_requests, total_tokens; managers/data_parallel_controller.py, load_snapshot.py and
// Scheduler.publish_load_snapshot of 0.5.23).
//
// A rank writes its load when it begins to process the result of a step with prompts of its own, of every
// 15th other step, and when nobody has requests. The controller reads at most every 20 ms, when a request
// comes; in between, and where a rank has written nothing new, it counts what it dealt out itself. So a burst
// is dealt out evenly, and a rank that became free is found late.
#pragma once

#include <functional>

#include "sim/rank_scheduler.h"

namespace orrery {

struct PublishedLoad {
  std::int64_t requests = 0;  // in the running batch, and waiting
  std::int64_t tokens = 0;    // slots in use that no request could do without, and inputs that wait
};

class SglangBalancer final : public RankBalancer {
 public:
  struct Rules {
    bool by_tokens = false;              // then by requests; false: by requests, the first of equals
    std::int64_t publish_interval = 15;  // load_snapshot_publish_interval
  };
  // `load(rank)` is asked while the rank works, and must outlive the balancer.
  SglangBalancer(std::size_t ranks, const Rules& rules, std::function<PublishedLoad(std::size_t)> load);

  // The clock is the requests' arrival: the way from there to the controller is the same for all.
  std::size_t choose(const Request& request) override;
  bool watches_steps() const override { return true; }
  void processing(std::size_t rank, bool prompts) override;
  void idle() override;

 private:
  struct Rank {
    PublishedLoad counted;    // the controller's
    PublishedLoad published;  // the rank's
    bool fresh = false;       // published since the controller read
    std::int64_t quiet = 0;   // steps since it published
  };
  void publish(Rank& rank, const PublishedLoad& load);
  bool less(const PublishedLoad& a, const PublishedLoad& b) const;

  Rules rules_;
  std::function<PublishedLoad(std::size_t)> load_;
  std::vector<Rank> ranks_;
  SimTime last_read_;
  bool has_read_ = false;
};

// `follow_bootstrap_room`, the default of a prefill server (handle_load_balance_method, serving_hook.py): the
// room that the gateway drew for the request, modulo the ranks (sglang_router, mini_lb.py: uniform below
// 2^63). A decode server may follow it too, and draws the same room.
std::unique_ptr<RankBalancer> make_rank_by_room(std::size_t ranks, std::uint64_t seed);

}  // namespace orrery
