#include "plan/mpi_crew.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/json.h"
#include "plan/mpi/link.h"

namespace orrery {

namespace {

// MPI's own waiting spins; a rank that waits leaves its core to one that works.
constexpr useconds_t nap_us = 200;

Json results_json(const PlanResults& results) {
  Json list = Json::array();
  for (const auto& [key, value] : results) list.push_back(Json::array({key, value}));
  return list;
}

PlanResults results_from(const Json& list) {
  PlanResults results;
  for (const Json& pair : list) results.emplace_back(pair.at(0), pair.at(1));
  return results;
}

Json errors_json(const Errors& errors) {
  const Error& e = errors.front();
  return Json{
      {"kind", static_cast<int>(e.kind)}, {"file", e.where.file}, {"key", e.key}, {"message", e.message}};
}

Error error_from(const Json& in) {
  return make_error(static_cast<ErrorKind>(in.at("kind").get<int>()), in.at("message").get<std::string>(),
                    {in.at("file").get<std::string>(), 0, 0}, in.at("key").get<std::string>());
}

Error missing(const std::string& why) {
  return make_error(ErrorKind::unavailable,
                    "mpirun has started this, and MPI cannot be used: " + why +
                        "; install libopenmpi-dev and openmpi-bin and build again, or use --shard i/n");
}

}  // namespace

struct MpiCrew::State {
  const OrreryMpiLink* link = nullptr;
  int rank = 0, size = 1;
  PlanStore* store = nullptr;
  std::function<std::uint64_t()> runs_here;
  std::uint64_t batches = 0;
  int gone = 0;                        // ranks that have said that they end
  std::vector<std::uint64_t> runs_of;  // by rank

  void send(int to, const Json& message) const {
    const std::string text = message.dump();
    link->send(to, text.data(), text.size());
  }
  std::optional<Json> take(int& from) const {
    const long long size_of_it = link->waiting(&from);
    if (size_of_it < 0) return std::nullopt;
    std::string text(static_cast<std::size_t>(size_of_it), '\0');
    link->receive(from, text.data(), text.size());
    return Json::parse(text);
  }
  Json wait() const {
    for (int from = 0;;) {
      if (auto message = take(from)) return std::move(*message);
      usleep(nap_us);
    }
  }
  Status lead(std::size_t count, const PlanWork& work);
  Status follow(std::size_t count, const PlanWork& work);
};

namespace {

// What rank 0 has of a batch. Its own piece is worked on by a thread beside the one that speaks MPI.
struct Handed {
  std::mutex mutex;
  std::size_t next = 0, done = 0;
  std::optional<Errors> failed;

  std::optional<std::size_t> take(std::size_t count) {
    const std::scoped_lock lock(mutex);
    if (failed || next == count) return std::nullopt;
    return next++;
  }
  void finish(Status status) {
    const std::scoped_lock lock(mutex);
    ++done;
    if (!status.ok() && !failed) failed = status.errors();
  }
  void fail(Error error) {
    const std::scoped_lock lock(mutex);
    if (!failed) failed = Errors{std::move(error)};
  }
  // Nothing is left to hand out, and nothing is being worked on.
  bool over(std::size_t count) {
    const std::scoped_lock lock(mutex);
    return (failed || next == count) && done == next;
  }
};

}  // namespace

// A message of rank r: the results of the piece that it had, and with it the wish for another one.
Status MpiCrew::State::lead(std::size_t count, const PlanWork& work) {
  Handed handed;
  std::jthread own([&] {
    while (const auto piece = handed.take(count)) handed.finish(work(*piece));
  });
  std::vector<int> idle;
  PlanResults all;
  const auto collect = [&](const PlanResults& results) {
    all.insert(all.end(), results.begin(), results.end());
  };
  while (!handed.over(count) || static_cast<int>(idle.size()) + gone < size - 1) {
    int from = 0;
    const auto message = take(from);
    if (!message) {
      usleep(nap_us);
      continue;
    }
    if (message->contains("gone")) {  // it waits for nothing any more
      handed.fail(error_from(message->at("gone")));
      ++gone;
      continue;
    }
    if (message->at("batch") != batches || message->at("count") != count)
      handed.fail(make_error(ErrorKind::internal, "rank " + std::to_string(from) + " is at another batch"));
    runs_of[static_cast<std::size_t>(from)] = message->at("runs");
    if (message->contains("piece")) {
      const PlanResults results = results_from(message->at("results"));
      Status status = store->add(results, false);
      collect(results);
      if (message->contains("error"))
        status = error_from(message->at("error"));
      else if (status.ok())
        status = work(message->at("piece").get<std::size_t>());  // takes them
      handed.finish(std::move(status));
    }
    if (const auto piece = handed.take(count))
      send(from, Json{{"piece", *piece}});
    else
      idle.push_back(from);
  }
  own.join();
  collect(store->take_new());
  Json over{{"results", results_json(all)}};
  if (handed.failed) over["error"] = errors_json(*handed.failed);
  for (const int rank_of_it : idle) send(rank_of_it, over);
  if (handed.failed) return *handed.failed;
  return ok_status();
}

Status MpiCrew::State::follow(std::size_t count, const PlanWork& work) {
  std::vector<bool> done(count, false);
  Json report;
  for (;;) {
    report["batch"] = batches;
    report["count"] = count;
    report["runs"] = runs_here();
    send(0, report);
    const Json order = wait();
    if (!order.contains("piece")) {
      if (order.contains("error")) return error_from(order.at("error"));
      ORRERY_TRY_STATUS(store->add(results_from(order.at("results")), false));
      break;
    }
    const auto piece = order.at("piece").get<std::size_t>();
    const Status status = work(piece);
    done[piece] = status.ok();
    report = Json{{"piece", piece}, {"results", results_json(store->take_new())}};
    if (!status.ok()) report["error"] = errors_json(status.errors());
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (!done[i]) ORRERY_TRY_STATUS(work(i));
  }
  return ok_status();
}

MpiCrew::MpiCrew() : state_(std::make_unique<State>()) {}

// Every rank says that it ends, however it does (a file that is not on its machine, an interruption): others
// would wait for it. Nobody goes before all that was sent to him is taken.
MpiCrew::~MpiCrew() {
  State& s = *state_;
  if (s.link == nullptr) return;
  const Json why = errors_json(
      {make_error(ErrorKind::unavailable, "rank " + std::to_string(s.rank) + " of mpirun has failed")});
  const bool joined = s.store != nullptr;
  if (s.rank > 0) {
    if (!joined) (void)s.wait();  // what rank 0 sends to who joins
    s.send(0, Json{{"gone", why}});
  }
  for (int to = 1; s.rank == 0 && !joined && to < s.size; ++to) s.send(to, Json{{"gone", why}});
  while (s.rank == 0 && s.gone < s.size - 1) {
    int from = 0;
    if (const auto message = s.take(from); !message)
      usleep(nap_us);
    else if (message->contains("gone"))
      ++s.gone;
    else
      s.send(from, Json{{"error", why}});  // it asks for a piece of a batch that is not to be
  }
  s.link->stop();
}

bool MpiCrew::started_by_mpi() {
  // Open MPI's mpirun, srun --mpi=pmix, and MPICH's, which another link would be needed for.
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

Result<std::unique_ptr<MpiCrew>> MpiCrew::start() {
  std::error_code failed;
  const std::filesystem::path binary = std::filesystem::read_symlink("/proc/self/exe", failed);
  const std::string module = (binary.parent_path() / "orrery_mpi.so").string();
  // Global: Open MPI's own modules look their symbols up.
  void* handle = dlopen(module.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr) return missing(dlerror());
  using Entry = const OrreryMpiLink*();
  auto* entry = reinterpret_cast<Entry*>(dlsym(handle, "orrery_mpi_link"));
  if (entry == nullptr) return missing(module + " is of another version");
  std::unique_ptr<MpiCrew> crew(new MpiCrew());
  State& s = *crew->state_;
  const OrreryMpiLink* link = entry();
  if (!link->start(&s.rank, &s.size)) return missing("it does not start");
  s.link = link;
  s.runs_of.assign(static_cast<std::size_t>(s.size), 0);
  const char* asked = std::getenv("PMI_SIZE");
  if (asked != nullptr && std::atoi(asked) > 1 && s.size == 1)
    return missing("it was built with another MPI than the one that started it");
  return crew;
}

int MpiCrew::rank() const { return state_->rank; }
int MpiCrew::size() const { return state_->size; }

Status MpiCrew::join(PlanStore& store, std::function<std::uint64_t()> runs_here) {
  State& s = *state_;
  s.store = &store;
  s.runs_here = std::move(runs_here);
  // What rank 0 has of an earlier search.
  if (s.rank == 0) {
    ORRERY_TRY(known, store.all());
    for (int to = 1; to < s.size; ++to) s.send(to, Json{{"results", results_json(known)}});
  } else {
    const Json known = s.wait();
    if (known.contains("gone")) return error_from(known.at("gone"));
    ORRERY_TRY_STATUS(store.add(results_from(known.at("results")), true));
  }
  store.keep_new();
  return ok_status();
}

Status MpiCrew::batch(std::size_t count, int, const PlanWork& work) {
  ++state_->batches;
  return state_->rank == 0 ? state_->lead(count, work) : state_->follow(count, work);
}

std::uint64_t MpiCrew::runs_elsewhere() const {
  std::uint64_t sum = 0;
  for (const std::uint64_t runs : state_->runs_of) sum += runs;
  return sum;
}

}  // namespace orrery
