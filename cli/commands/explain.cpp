// `orrery explain DIR --request N`: one request's time line, from repeating the run that DIR holds.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "base/digest.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/command_table.h"
#include "cli/interrupt.h"
#include "sim/costed/request_watch.h"

namespace orrery {

namespace {

const char* name_of(RequestEvent::Kind kind) {
  using Kind = RequestEvent::Kind;
  switch (kind) {
    case Kind::arrived: return "arrived";
    case Kind::rejected: return "rejected";
    case Kind::admitted: return "admitted";
    case Kind::prefill_chunk: return "prefill chunk";
    case Kind::encoded: return "images encoded";
    case Kind::loading: return "loads prefix";
    case Kind::answered: return "prefilled";
    case Kind::pulling: return "fetches KV";
    case Kind::pulled: return "KV is there";
    case Kind::transfer_failed: return "transfer failed";
    case Kind::first_token: return "first token";
    case Kind::preempted: return "preempted";
    case Kind::resumed: return "resumed";
    case Kind::finished: return "finished";
    case Kind::departed: return "client gone";
    case Kind::lost: return "instance lost";
  }
  return "";
}

std::string detail_of(const RequestEvent& e) {
  using Kind = RequestEvent::Kind;
  const std::string queue = std::to_string(e.running) + " running, " + std::to_string(e.waiting) + " waiting";
  switch (e.kind) {
    case Kind::arrived: return "at instance " + std::to_string(e.instance.value()) + "; " + queue;
    case Kind::rejected: return "the engine does not take so long a prompt";
    case Kind::admitted:
    case Kind::resumed:
      return "step " + std::to_string(e.step) + ", " + std::to_string(e.tokens) +
             (e.context > 0 ? " tokens there, " + std::to_string(e.context) + " of them fetched; "
                            : " tokens found in the prefix cache; ") +
             queue;
    case Kind::prefill_chunk:
      return "step " + std::to_string(e.step) + ", " + std::to_string(e.tokens) + " tokens behind " +
             std::to_string(e.context);
    case Kind::loading: return std::to_string(e.tokens) + " tokens from host memory; waits for them";
    case Kind::answered:
      return "at the proxy; instance " + std::to_string(e.instance.value()) + " holds its blocks";
    case Kind::pulling: return std::to_string(e.tokens) + " blocks, for which it has room now; " + queue;
    case Kind::pulled: return "and its blocks at the prefill instance can go; " + queue;
    case Kind::transfer_failed: return "and what came of it is lost; " + queue;
    case Kind::encoded:
      return "step " + std::to_string(e.step) + ", " + std::to_string(e.tokens) + " images, " +
             std::to_string(e.context) + " embeddings";
    case Kind::first_token: return "at the client, from step " + std::to_string(e.step);
    case Kind::preempted:
      return "step " + std::to_string(e.step) + ", its KV blocks made room for request " +
             std::to_string(e.tokens);
    case Kind::finished: return std::to_string(e.tokens) + " output tokens";
    case Kind::departed: return std::to_string(e.tokens) + " output tokens delivered by then";
    case Kind::lost: return std::to_string(e.tokens) + " output tokens were delivered by then";
  }
  return "";
}

std::string list_of(const std::vector<std::uint64_t>& requests) {
  std::string text = std::to_string(requests.size());
  for (std::size_t i = 0; i < requests.size() && i < 8; ++i)
    text += (i == 0 ? ": " : ", ") + std::to_string(requests[i]);
  return text + (requests.size() > 8 ? ", …" : "");
}

std::string parts_of(const RequestRecord& r) {
  const auto part = [](const char* name, SimDuration d) { return name + human_seconds(d.seconds()); };
  const HandoffTimes& t = r.handoff;
  if (!t.apart) return part("queue ", r.queue) + part(" + prefill and way out ", r.ttft - r.queue);
  return part("prefill queue ", t.queue) + part(" + prefill ", t.prefill) +
         part(" + transfer wait ", t.wait) + part(" + transfer ", t.transfer) +
         part(" + decode queue ", t.decode_queue) + part(" + first step ", t.first_step);
}

std::string story_text(const RequestStory& story) {
  const RequestRecord& r = story.record;
  std::string out = "request " + std::to_string(r.request) + ": " + to_string(r.status) + ", " +
                    std::to_string(r.prompt_tokens) + " prompt tokens (" + std::to_string(r.cached_tokens) +
                    " cached), " + std::to_string(r.output_tokens) + " output tokens, instance " +
                    std::to_string(r.instance.value()) + "\n";
  if (r.status == RequestStatus::completed) {
    out += "TTFT " + human_seconds(r.ttft.seconds()) + " = " + parts_of(r) + "; E2E " +
           human_seconds(r.e2e.seconds());
    if (r.tpot_ns() >= 0) out += "; TPOT " + human_seconds(static_cast<double>(r.tpot_ns()) * 1e-9);
    if (r.itl_max >= 0) out += "; longest gap " + human_seconds(static_cast<double>(r.itl_max) * 1e-9);
    out += "; " + std::to_string(r.preemptions) + " preemptions\n";
  }
  if (r.drafts > 0) {
    out += "speculation: " + std::to_string(r.accepted_drafts) + " of " + std::to_string(r.drafts) +
           " drafts accepted\n";
  }
  out +=
      "there before it: " + list_of(story.ahead) + "\nran beside it:   " + list_of(story.companions) + "\n\n";
  std::string lines;
  for (const RequestEvent& e : story.events) {
    char buffer[64];
    std::snprintf(buffer, sizeof buffer, "%14s  %-14s ", human_seconds((e.at - r.arrival).seconds()).c_str(),
                  name_of(e.kind));
    lines += buffer + detail_of(e) + "\n";
  }
  out += lines;
  std::int64_t steps = 0, mixed = 0;
  SimDuration longest;
  for (const StepRecord& s : story.steps) {
    steps += s.steps;
    if (s.prefill_chunks > 0) {
      mixed += s.steps;
      longest = std::max(longest, s.device_end - s.device_begin);
    }
  }
  out += "\n" + std::to_string(steps) + " steps ran while it was running, " + std::to_string(mixed) +
         " of them with prefill";
  if (mixed > 0) out += " (the longest " + human_seconds(longest.seconds()) + " on the device)";
  return out + "\n";
}

Json story_json(const RequestStory& story) {
  Json events = Json::array(), steps = Json::array();
  for (const RequestEvent& e : story.events) {
    events.push_back({{"event", name_of(e.kind)},
                      {"at_s", e.at.seconds()},
                      {"step", e.step},
                      {"tokens", e.tokens},
                      {"context", e.context},
                      {"running", e.running},
                      {"waiting", e.waiting},
                      {"detail", detail_of(e)}});
  }
  for (const StepRecord& s : story.steps) {
    steps.push_back({{"step", s.step},
                     {"steps", s.steps},
                     {"schedule_begin_s", s.schedule_begin.seconds()},
                     {"device_begin_s", s.device_begin.seconds()},
                     {"device_end_s", s.device_end.seconds()},
                     {"prefill_tokens", s.prefill_tokens},
                     {"decode_sequences", s.decode_sequences},
                     {"running", s.running},
                     {"waiting", s.waiting}});
  }
  const RequestRecord& r = story.record;
  return {{"request", r.request},
          {"status", to_string(r.status)},
          {"arrival_s", r.arrival.seconds()},
          {"queue_s", r.queue.seconds()},
          {"ttft_s", r.ttft.seconds()},
          {"e2e_s", r.e2e.seconds()},
          {"prompt_tokens", r.prompt_tokens},
          {"output_tokens", r.output_tokens},
          {"cached_tokens", r.cached_tokens},
          {"preemptions", r.preemptions},
          {"drafts", r.drafts},
          {"accepted_drafts", r.accepted_drafts},
          {"instance", r.instance.value()},
          {"events", events},
          {"steps", steps},
          {"companions", story.companions},
          {"ahead", story.ahead},
          {"digest", digest_text(story.digest)}};
}

// Pipeline stages: what the whole run left of them, beside which one request's steps are read.
std::string stages_text(const Json& summary) {
  if (!summary.contains("pipeline") || !summary["pipeline"].is_object()) return "";
  const Json& p = summary["pipeline"];
  std::string out = "pipeline stages of the run: busy";
  for (const Json& share : p["stage_busy"]) out += " " + format_fixed(100 * share.get<double>(), 1);
  out += " % of the time with a step on any of them, hand-offs " +
         format_fixed(100 * p["handoff"].get<double>(), 1) + " %, bubble " +
         format_fixed(100 * p["bubble"].get<double>(), 1) + " %\n";
  return out;
}

int explain(const std::string& directory, std::uint64_t request, const CommandContext& context) {
  watch_interrupts();
  auto scenario = load_scenario(directory + "/scenario.resolved.yaml", {});
  if (!scenario.ok()) return report_errors(scenario.errors());
  auto summary = load_json(directory + "/summary.json");
  if (!summary.ok()) return report_errors(summary.errors());
  auto story = watch_request(*scenario, request, [](std::uint64_t) { return !interrupted(); });
  if (!story.ok()) return report_errors(story.errors());
  const std::string recorded = summary->value("digest", "");
  if (recorded != digest_text(story->digest)) {
    return report_errors(
        {make_error(ErrorKind::check_failed,
                    "the repeated run has digest " + digest_text(story->digest) + ", the recorded one " +
                        recorded + ": the trace, a profile or Orrery itself changed since; simulate again",
                    {directory, 0, 0})});
  }
  const std::string text =
      context.json ? canonical_json(story_json(*story)) : story_text(*story) + stages_text(*summary);
  std::fputs(text.c_str(), stdout);
  return 0;
}

}  // namespace

void register_explain_command(CLI::App& app, CommandContext& context) {
  struct Options {
    std::string directory;
    std::uint64_t request = 0;
  };
  auto options = std::make_shared<Options>();
  CLI::App* c =
      app.add_subcommand("explain",
                         "one request's time line: what it waited for, beside whom it ran, who preempted it\n"
                         "example: orrery explain out/demo --request 17");
  c->add_option("directory", options->directory, "what simulate --out wrote")->required();
  c->add_option("--request", options->request, "index in the trace, from 0")->required();
  c->callback([&context, options] {
    context.action = [&context, options] { return explain(options->directory, options->request, context); };
  });
}

}  // namespace orrery
