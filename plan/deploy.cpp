#include "plan/deploy.h"

#include <algorithm>

#include "base/files.h"
#include "base/text.h"
#include "costmodel/profile_folder.h"

namespace orrery {

namespace {

constexpr std::int64_t gpus_of_node = 8;

// The checkpoint that a model profile's figures were read in: "Hugging Face Qwen/Qwen3-8B config.json …".
std::string checkpoint_of(const std::string& model) {
  const std::vector<std::string> known = profile_names("model_profiles");
  if (std::find(known.begin(), known.end(), model) == known.end()) return "";
  auto document = YamlDocument::load(profile_path("model_profiles", model));
  if (!document.ok()) return "";
  const std::string source = document->root().optional("source").text();
  constexpr std::string_view before = "Hugging Face ", after = " config.json";
  const std::size_t at = source.find(before), end = source.find(after, at);
  if (at == std::string::npos || end == std::string::npos) return "";
  const std::string name = source.substr(at + before.size(), end - at - before.size());
  const bool plain = name.find(' ') == std::string::npos && std::count(name.begin(), name.end(), '/') == 1;
  return plain ? name : "";
}

std::string text_or(const Json& node, const char* key, const std::string& fallback) {
  const auto at = node.find(key);
  if (at == node.end() || at->is_null()) return fallback;
  return at->is_string() ? at->get<std::string>() : at->dump();
}

// As the scenario was read, not as its keys stand: an engine may choose by itself.
void add_speculation(const SpeculationSpec& drafts, const Json& node, LaunchFacts& facts) {
  const auto at = node.find("speculation");
  const Json speculation = at != node.end() && at->is_object() ? *at : Json::object();
  facts["speculation"] = to_string(drafts.method);
  facts["drafts"] = drafts.chosen_by_engine ? "engine" : "said";
  facts["draft_tokens"] = std::to_string(drafts.tokens);
  facts["verified_tokens"] = std::to_string(drafts.query_length());
  facts["branches"] = std::to_string(drafts.branches);
  const auto draft = speculation.find("draft");
  std::string kind = draft != speculation.end() ? text_or(*draft, "kind", "eagle") : "eagle";
  facts["draft_kind"] = kind;
  std::transform(kind.begin(), kind.end(), kind.begin(), [](unsigned char c) { return std::toupper(c); });
  facts["draft_kind_upper"] = kind;
}

void add_balancer(const Json& node, LaunchFacts& facts) {
  const auto experts = node.find("experts");
  const bool given = experts != node.end() && experts->is_object() && experts->contains("eplb");
  const Json eplb = given ? experts->at("eplb") : Json::object();
  facts["eplb"] = text_or(eplb, "policy", "off");
  facts["eplb_redundant"] = text_or(eplb, "redundant", "0");
  facts["eplb_every"] = text_or(eplb, "every_steps", "3000");
  facts["eplb_window"] = text_or(eplb, "window_steps", "1000");
}

LaunchFacts facts_of(const PoolSpec& pool, const Json& node, const std::string& transfer) {
  const ParallelPlan& plan = pool.instance.plan;
  const std::int64_t dp = std::int64_t{plan.dp} * pool.instance.engines;
  const std::int64_t gpus = plan.gpus() * pool.instance.engines;
  const std::int64_t nodes = (gpus + gpus_of_node - 1) / gpus_of_node;
  LaunchFacts facts;
  const auto number = [&](const char* name, std::int64_t value) { facts[name] = std::to_string(value); };
  number("tp", plan.tp);
  number("pp", plan.pp);
  number("dp", dp);
  number("cp", plan.cp);
  number("ep", plan.ep);
  number("width", plan.tp * dp * plan.cp);
  number("gpus", gpus);
  number("nodes", nodes);
  number("dp_per_node", dp / nodes);
  facts["role"] = text_or(node, "role", "mixed");
  facts["transfer"] = transfer;
  facts["kv_cache_dtype"] = text_or(node, "kv_cache_dtype", "auto");
  facts["quantization"] = text_or(node, "quantization", "");
  add_speculation(pool.instance.speculation, node, facts);
  add_balancer(node, facts);
  return facts;
}

std::string router_of(const Json& node) {
  const auto at = node.find("router");
  if (at == node.end()) return "least-loaded";
  return at->is_string() ? at->get<std::string>() : text_or(*at, "policy", "least-loaded");
}

// As clusters and compose files want names; `router` is the router's.
std::string plain_name(const std::string& pool) {
  std::string out;
  for (const char c : pool) {
    const bool kept = std::isalnum(static_cast<unsigned char>(c)) != 0;
    out += kept ? static_cast<char>(std::tolower(static_cast<unsigned char>(c))) : '-';
  }
  return out == "router" || !std::isalnum(static_cast<unsigned char>(out.front())) ? "pool-" + out : out;
}

// What files do otherwise than the scenario's routers.
void note_routers(Deployment& d) {
  for (const DeployPool& pool : d.pools) {
    if (d.apart() && pool.role == "mixed")
      d.notes.push_back("pool " + pool.name + ": the router of prefill and decode servers sends it nothing");
    if (d.apart() || pool.replicas == 1) continue;
    d.notes.push_back("kubernetes.yaml: a Service takes any of its instances; the scenario's router is " +
                      pool.router);
    if (pool.router != "least-loaded" && pool.router != "round-robin")
      d.notes.push_back("compose.yaml: nginx takes instances in turn; the scenario's router is " +
                        pool.router);
  }
  if (!d.apart() && d.pools.size() > 1)
    d.notes.push_back("kubernetes.yaml: each pool has a Service of its own; put one front before them");
}

// What the key means for a checkpoint, in words: the name of one with such weights is nobody's to guess.
void note_quantization(const LaunchFacts& facts, const PoolSpec& pool, std::vector<std::string>& notes) {
  const std::string& asked = facts.at("quantization");
  if (asked.empty() || asked == "bf16" || asked == "fp8-tensor") return;
  notes.push_back("pool " + pool.name + ": MODEL has to be a checkpoint with " + asked +
                  " weights, where the name that stands there is none");
}

}  // namespace

bool Deployment::apart() const {
  return std::any_of(pools.begin(), pools.end(),
                     [](const DeployPool& pool) { return pool.role == "prefill"; });
}

std::int64_t Deployment::gpus() const {
  std::int64_t sum = 0;
  for (const DeployPool& pool : pools) sum += pool.gpus * pool.replicas;
  return sum;
}

Result<Deployment> deployment_of(const Scenario& scenario, const std::string& document) {
  ORRERY_TRY(parsed, YamlDocument::parse(document, scenario.file));
  const Json root = json_of(parsed.root().optional("deployment"));
  const bool listed = root.contains("pools");
  const std::string transfer = root.contains("pd") ? text_or(root.at("pd"), "transfer", "whole") : "whole";
  Deployment out;
  std::size_t index = 0;
  for (const PoolSpec* pool : scenario.pools()) {
    const Json& node = listed ? root.at("pools").at(index++) : root;
    const std::string& engine = pool->instance.engine.name;
    ORRERY_TRY(profile, load_launch_profile(engine));
    if (!profile) {
      out.notes.push_back("pool " + pool->name + ": no table says how " + engine +
                          " is started (engine_profiles/launch)");
      continue;
    }
    const LaunchFacts facts = facts_of(*pool, node, transfer);
    const std::string& vendor = pool->instance.hardware.vendor;
    DeployPool one;
    one.name = plain_name(pool->name);
    one.role = facts.at("role");
    one.vendor = vendor;
    one.router = router_of(node);
    if (one.role == "encoder") {
      out.notes.push_back("pool " + pool->name + ": no files for encoder pools");
      continue;
    }
    one.replicas = std::stoll(text_or(node, "replicas", "1"));
    one.gpus = std::stoll(facts.at("gpus"));
    one.nodes = std::stoll(facts.at("nodes"));
    one.ranks_per_node = std::stoll(facts.at("dp_per_node"));
    one.by_hand = one.nodes > 1 && !profile->several_nodes;
    one.model = checkpoint_of(text_or(node, "model", ""));
    const auto image = profile->image.find(vendor);
    one.image = image == profile->image.end() ? "IMAGE" : image->second;
    one.launch = launch_of(*profile, facts, node.value("engine_args", Json::object()));
    one.follower = profile->follower;
    for (const std::string& note : one.launch.notes) out.notes.push_back("pool " + pool->name + ": " + note);
    note_quantization(facts, *pool, out.notes);
    if (one.model.empty())
      out.notes.push_back("pool " + pool->name +
                          ": put the checkpoint's name or folder in the place of MODEL");
    if (one.role == "prefill") out.router = profile->router;
    out.pools.push_back(std::move(one));
  }
  note_routers(out);
  return out;
}

}  // namespace orrery
