#include "reports/perfetto.h"

#include <set>

#include "base/files.h"
#include "base/json.h"

namespace orrery {

namespace {

std::string us(SimTime t) {  // microseconds with three decimals, exactly
  const std::int64_t ns = t.ns();
  const std::string rest = std::to_string(ns % 1000);
  return std::to_string(ns / 1000) + "." + std::string(3 - rest.size(), '0') + rest;
}

std::string us(SimDuration d) { return us(SimTime(d.ns())); }

}  // namespace

bool PerfettoTrace::room(std::size_t events) {
  if (events_ + events > event_limit) overflowed_ = true;
  if (overflowed_) return false;
  events_ += events;
  return true;
}

void PerfettoTrace::on_step(const StepRecord& s) {
  if (s.device_begin >= end_ || s.device_end <= begin_ || !room(3)) return;  // a slice and two counters
  steps_.push_back(s);
}

// Ends the request's current phase at this event and begins the next one (null: none).
void PerfettoTrace::phase(const RequestEvent& e, const char* next) {
  const auto it = open_.find(e.request);
  if (it != open_.end()) {
    const Slice slice{e.request, e.instance, it->second.name, it->second.since, e.at};
    if (slice.begin < end_ && slice.end > begin_ && room(2)) slices_.push_back(slice);
  }
  if (next == nullptr) {
    if (it != open_.end()) open_.erase(it);
  } else {
    open_[e.request] = {next, e.at};
  }
}

void PerfettoTrace::on_request_event(const RequestEvent& e) {
  using Kind = RequestEvent::Kind;
  if (overflowed_) return;
  switch (e.kind) {
    case Kind::arrived: phase(e, "queue"); break;
    case Kind::admitted: phase(e, "prefill"); break;
    case Kind::first_token: phase(e, "decode"); break;
    case Kind::preempted: phase(e, "preempted"); break;
    case Kind::resumed: phase(e, "prefill again"); break;
    case Kind::answered: phase(e, "to the decode instance"); break;
    case Kind::pulling: phase(e, "KV transfer"); break;
    case Kind::transfer_failed: break;
    case Kind::pulled: phase(e, "decode queue"); break;
    case Kind::finished:
    case Kind::lost:
    case Kind::departed: phase(e, nullptr); break;
    case Kind::rejected:
    case Kind::prefill_chunk:
    case Kind::encoded:
    case Kind::loading: break;
  }
}

void PerfettoTrace::on_stay(const FleetResult::Stay& s) {
  if (s.begin < end_ && s.end > begin_ && room(1)) stays_.push_back(s);
}

Status PerfettoTrace::write(const std::string& path) const {
  ORRERY_TRY(file, AtomicFile::create(path));
  file.write("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
  std::set<std::uint32_t> instances;
  for (const StepRecord& s : steps_) instances.insert(s.instance.value());
  for (const Slice& s : slices_) instances.insert(s.instance.value());
  for (const FleetResult::Stay& s : stays_) instances.insert(s.instance.value());
  std::string out;
  const auto meta = [&](std::uint32_t pid, int tid, const char* what, const std::string& name) {
    out += "{\"ph\":\"M\",\"pid\":" + std::to_string(pid) + ",\"tid\":" + std::to_string(tid) +
           ",\"name\":\"" + what + "\",\"args\":{\"name\":\"" + name + "\"}},\n";
  };
  for (const std::uint32_t i : instances) {
    meta(i + 1, 1, "process_name", "instance " + std::to_string(i));
    meta(i + 1, 1, "thread_name", "device");
  }
  for (const StepRecord& s : steps_) {
    const std::string pid = std::to_string(s.instance.value() + 1);
    std::string name = s.prefill_tokens == 0 ? "decode" : s.decode_sequences == 0 ? "prefill" : "mixed";
    if (s.steps > 1) name += " x" + std::to_string(s.steps);
    out += "{\"ph\":\"X\",\"pid\":" + pid + ",\"tid\":1,\"ts\":" + us(s.device_begin) +
           ",\"dur\":" + us(s.device_end - s.device_begin) + ",\"name\":\"" + name +
           "\",\"args\":{\"step\":" + std::to_string(s.step) + ",\"steps\":" + std::to_string(s.steps) +
           ",\"prefill_tokens\":" + std::to_string(s.prefill_tokens) +
           ",\"prefill_chunks\":" + std::to_string(s.prefill_chunks) +
           ",\"decode_sequences\":" + std::to_string(s.decode_sequences) +
           ",\"decode_context_tokens\":" + std::to_string(s.decode_context_tokens) +
           ",\"preempted\":" + std::to_string(s.preempted) + "}},\n";
    out += "{\"ph\":\"C\",\"pid\":" + pid + ",\"ts\":" + us(s.schedule_begin) +
           ",\"name\":\"requests\",\"args\":{\"running\":" + std::to_string(s.running) +
           ",\"waiting\":" + std::to_string(s.waiting) + "}},\n";
    out += "{\"ph\":\"C\",\"pid\":" + pid + ",\"ts\":" + us(s.schedule_begin) +
           ",\"name\":\"free KV blocks\",\"args\":{\"blocks\":" + std::to_string(s.free_blocks) + "}},\n";
    if (out.size() > (1u << 20)) {
      file.write(out);
      out.clear();
    }
  }
  for (const FleetResult::Stay& s : stays_) {
    out += "{\"ph\":\"X\",\"pid\":" + std::to_string(s.instance.value() + 1) +
           ",\"tid\":3,\"ts\":" + us(s.begin) + ",\"dur\":" + us(s.end - s.begin) + ",\"name\":\"" +
           to_string(s.state) + "\"},\n";
  }
  for (const Slice& s : slices_) {
    const std::string common = ",\"cat\":\"request\",\"id\":" + std::to_string(s.request) +
                               ",\"pid\":" + std::to_string(s.instance.value() + 1) +
                               ",\"tid\":2,\"name\":\"" + s.name + "\"";
    out += "{\"ph\":\"b\",\"ts\":" + us(s.begin) + common +
           ",\"args\":{\"request\":" + std::to_string(s.request) + "}},\n";
    out += "{\"ph\":\"e\",\"ts\":" + us(s.end) + common + "},\n";
    if (out.size() > (1u << 20)) {
      file.write(out);
      out.clear();
    }
  }
  if (out.size() >= 2) out.resize(out.size() - 2);  // the last comma
  file.write(out);
  file.write("\n]}\n");
  return file.commit();
}

}  // namespace orrery
