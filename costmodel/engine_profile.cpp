#include "costmodel/engine_profile.h"

#include <algorithm>

#include "base/text.h"
#include "costmodel/engine_loader.h"
#include "costmodel/figure_reader.h"
#include "costmodel/profile_folder.h"

namespace orrery {

namespace {

HostCosts read_host(const Yaml& n) {
  HostCosts h;
  h.schedule_base = read_time(n.require("schedule_base"));
  h.schedule_per_sequence = read_time(n.require("schedule_per_sequence"));
  h.schedule_per_new_request = read_time(n.require("schedule_per_new_request"));
  h.prepare_base = read_time(n.require("prepare_base"));
  h.prepare_per_sequence = read_time(n.require("prepare_per_sequence"));
  h.prepare_rpc = read_time(n.require("prepare_rpc"));
  h.launch_graph = read_time(n.require("launch_graph"));
  h.launch_piece = read_time(n.require("launch_piece"));
  h.launch_kernel = read_time(n.require("launch_kernel"));
  h.copy = read_time(n.require("copy"));
  h.update_base = read_time(n.require("update_base"));
  h.update_per_sequence = read_time(n.require("update_per_sequence"));
  h.loop_gap = read_time(n.require("loop_gap"));
  h.input_delay = read_time(n.require("input_delay"));
  h.output_delay = read_time(n.require("output_delay"));
  return h;
}

BatchDefaults read_batch(const Yaml& n) {
  return {.max_num_batched_tokens = n.require("max_num_batched_tokens").integer(8192, 1),
          .max_num_seqs = n.require("max_num_seqs").integer(256, 1)};
}

std::vector<std::string> read_names(const Yaml& n) {
  std::vector<std::string> names;
  if (!n.present()) return names;
  for (const Yaml& item : n.items()) names.push_back(item.text());
  return names;
}

EngineFile read_file(const Yaml& root) {
  EngineFile f;
  EngineProfile& e = f.profile;
  e.name = root.require("name").text();
  e.engine = root.require("engine").text();
  e.version = root.require("version").text();
  f.description = root.require("description").text();
  e.scheduler = root.require("scheduler").text();
  const Yaml depth = root.require("steps_in_flight");
  e.steps_in_flight = static_cast<std::int32_t>(depth.require("asynchronous").integer(2, 1, 8));
  f.synchronous_depth = static_cast<std::int32_t>(depth.require("synchronous").integer(1, 1, 8));
  e.single_process_at_one_gpu = root.require("single_process_at_one_gpu").boolean(true);
  e.v2_architectures = read_names(root.require("v2_architectures"));
  const Yaml d = root.require("defaults");
  const Yaml large = d.require("large_memory");
  f.large_from_bytes = large.require("from_gib").number(70, 0) * 1073741824.0;
  f.large = read_batch(large);
  f.small = read_batch(d.require("small_memory"));
  SchedulerSettings& s = e.settings;
  s.block_size = d.require("block_size").integer(16, 1, 4096);
  s.gpu_memory_utilization = d.require("gpu_memory_utilization").number(0.92, 0.01, 1);
  s.enable_prefix_caching = d.require("enable_prefix_caching").boolean(true);
  s.enable_chunked_prefill = d.require("enable_chunked_prefill").boolean(true);
  s.async_scheduling = d.require("async_scheduling").boolean(true);
  s.scheduler_reserve_full_isl = d.require("scheduler_reserve_full_isl").boolean(true);
  f.largest_graph = d.require("largest_graph").integer(512, 0, 1 << 20);
  const Yaml memory = root.require("memory");
  e.residue_v1 = e.residue_v2 = read_bytes(memory.require("other"));
  e.graph_estimate_v1 = read_bytes(memory.require("graph_estimate_v1"));
  e.sampler_bytes_v1 = read_number(memory.require("sampler_bytes_v1"));
  e.sampler_bytes_v2 = read_number(memory.require("sampler_bytes_v2"));
  const Yaml host = root.require("host");
  e.interval_host_error = host.require("error").number(0.5, 0, 3);
  e.host = read_host(host);
  const Yaml arguments = root.require("arguments");
  f.effective = read_names(arguments.require("effective"));
  f.ignored = read_names(arguments.require("ignored"));
  for (const auto& [name, why] : arguments.require("refused").entries()) f.refused.emplace_back(name, why.text());
  return f;
}

// Captured sizes (vllm_0_24.md §3): 1, 2, 4, then every 8 to 248, then every 16 from 256 to the largest.
std::vector<std::int64_t> graph_sizes(std::int64_t largest) {
  std::vector<std::int64_t> sizes;
  for (const std::int64_t n : {1, 2, 4}) {
    if (n <= largest) sizes.push_back(n);
  }
  for (std::int64_t n = 8; n < 256 && n <= largest; n += 8) sizes.push_back(n);
  for (std::int64_t n = 256; n <= largest; n += 16) sizes.push_back(n);
  if (!sizes.empty() && sizes.back() != largest) sizes.push_back(largest);
  return sizes;
}

void read_argument(const std::string& name, const Yaml& v, SchedulerSettings& s, std::int64_t& largest_graph, bool& sizes_given) {
  constexpr std::int64_t most = std::int64_t{1} << 40;
  if (name == "max_num_batched_tokens") s.max_num_batched_tokens = v.integer(s.max_num_batched_tokens, 1, 1 << 30);
  if (name == "max_num_seqs") s.max_num_seqs = v.integer(s.max_num_seqs, 1, 1 << 24);
  if (name == "max_model_len") s.max_model_len = v.integer(s.max_model_len, 2, 1 << 30);
  if (name == "block_size") {
    s.block_size = v.integer(s.block_size, 1, 4096);
    if (s.block_size % 16 != 0) v.fail("attention kernels of this engine take multiples of 16");
  }
  if (name == "num_gpu_blocks_override") s.num_gpu_blocks_override = v.integer(0, 2, most);
  if (name == "kv_cache_memory_bytes") s.kv_cache_memory_bytes = v.integer(0, 1, most);
  if (name == "gpu_memory_utilization") s.gpu_memory_utilization = v.number(s.gpu_memory_utilization, 0.01, 1);
  if (name == "enable_prefix_caching") s.enable_prefix_caching = v.boolean(true);
  if (name == "enable_chunked_prefill") s.enable_chunked_prefill = v.boolean(true);
  if (name == "async_scheduling") s.async_scheduling = v.boolean(true);
  if (name == "enforce_eager") s.enforce_eager = v.boolean(false);
  if (name == "scheduler_reserve_full_isl") s.scheduler_reserve_full_isl = v.boolean(true);
  if (name == "long_prefill_token_threshold") s.long_prefill_token_threshold = v.integer(0, 0, 1 << 30);
  if (name == "watermark") s.watermark = v.number(0, 0, 1);
  if (name == "max_cudagraph_capture_size") largest_graph = v.integer(largest_graph, 0, 1 << 20);
  if (name == "cudagraph_capture_sizes") {
    sizes_given = true;
    s.cudagraph_sizes.clear();
    for (const Yaml& item : v.items()) s.cudagraph_sizes.push_back(item.integer(1, 1, 1 << 20));
    std::sort(s.cudagraph_sizes.begin(), s.cudagraph_sizes.end());
  }
}

}  // namespace

Result<EngineFile> load_engine(const std::string& name) {
  ORRERY_TRY(path, find_profile("engine_profiles", name, "engine"));
  ORRERY_TRY(document, YamlDocument::load(path));
  EngineFile file = read_file(document.root());
  document.finish();
  if (!document.errors().empty()) return document.errors();
  return file;
}

EngineProfile resolve_engine(const EngineFile& file, const Yaml& args, Bytes device_memory, const std::string& architecture,
                             std::int64_t max_positions) {
  EngineProfile e = file.profile;
  SchedulerSettings& s = e.settings;
  const BatchDefaults& batch = device_memory.value() >= file.large_from_bytes ? file.large : file.small;
  s.max_num_batched_tokens = batch.max_num_batched_tokens;
  s.max_num_seqs = batch.max_num_seqs;
  s.max_model_len = max_positions;
  std::int64_t largest = file.largest_graph;
  bool sizes_given = false;
  std::vector<std::string> known = file.effective;
  known.insert(known.end(), file.ignored.begin(), file.ignored.end());
  if (args.present()) {
    for (const auto& [name, value] : args.entries()) {
      const auto refused = std::find_if(file.refused.begin(), file.refused.end(), [&](const auto& r) { return r.first == name; });
      if (refused != file.refused.end()) {
        const bool off = value.is_null() || value.scalar_text() == "false";
        if (!off) value.fail(refused->second);
      } else if (std::find(file.effective.begin(), file.effective.end(), name) != file.effective.end()) {
        read_argument(name, value, s, largest, sizes_given);
      } else if (std::find(file.ignored.begin(), file.ignored.end(), name) != file.ignored.end()) {
        e.ignored_args.push_back(name);
      } else {
        value.fail("unknown argument of " + e.name + did_you_mean(name, known));
      }
    }
  }
  // Caps of arg_utils: no more sequences than tokens, no more tokens than the sequences can have.
  if (s.max_num_batched_tokens < s.max_num_seqs) {
    const Yaml given = args.present() ? args.optional("max_num_batched_tokens") : Yaml();
    if (given.present() && args.optional("max_num_seqs").present()) {
      given.fail("must be at least max_num_seqs (" + std::to_string(s.max_num_seqs) + ")");
    }
    s.max_num_seqs = std::min(s.max_num_seqs, s.max_num_batched_tokens);
  }
  if (!s.enable_chunked_prefill && s.max_num_batched_tokens < s.max_model_len) s.max_num_batched_tokens = s.max_model_len;
  if (!sizes_given) s.cudagraph_sizes = graph_sizes(std::min({2 * s.max_num_seqs, largest, s.max_num_batched_tokens}));
  if (s.enforce_eager) s.cudagraph_sizes.clear();
  if (!s.async_scheduling) e.steps_in_flight = file.synchronous_depth;
  const bool v2 = std::find(e.v2_architectures.begin(), e.v2_architectures.end(), architecture) != e.v2_architectures.end();
  e.runner = v2 ? "v2" : "v1";
  return e;
}

}  // namespace orrery
