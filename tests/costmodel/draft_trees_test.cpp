// Trees of drafts: what a deployment may say of them, their shapes and their price. Rules: files of SGLang
// 0.5.23.
#include "costmodel/draft_trees.h"

#include <cmath>
#include <vector>

#include "catch.h"
#include "costmodel/instance_spec.h"
#include "hand_spec.h"

using namespace orrery;

namespace {

struct Read {
  InstanceSpec spec;
  Errors errors;
};
Read read(const std::string& speculation, const std::string& model = "llama-3.1-8b",
          const std::string& rest = "hardware: h200\n  engine: sglang-0.5") {
  const auto document = YamlDocument::parse(
      "deployment:\n  model: " + model + "\n  " + rest + "\n  speculation: " + speculation + "\n", "s.yaml");
  REQUIRE(document.ok());
  Read out;
  out.spec = read_instance_spec(document->root().require("deployment"), ".", out.errors);
  document->finish();
  out.errors.insert(out.errors.end(), document->errors().begin(), document->errors().end());
  INFO(to_string(out.errors));
  return out;
}

SpeculationSpec good(const std::string& speculation, const std::string& model = "llama-3.1-8b") {
  const Read r = read(speculation, model);
  INFO(to_string(r.errors));
  REQUIRE(r.errors.empty());
  return r.spec.speculation;
}

StepShape decodes(std::int32_t sequences, std::int64_t context, std::int32_t drafts) {
  StepShape shape;
  shape.decode_sequences = sequences;
  shape.decode_context_tokens = sequences * context;
  shape.draft_tokens = drafts * sequences;
  return shape;
}

OpLine line(const StepPricer& pricer, const StepShape& shape, const std::string& name) {
  for (const OpLine& op : pricer.explain(shape).ops) {
    if (op.name == name) return op;
  }
  return {};
}

}  // namespace

TEST_CASE("`_auto_choose_speculative_params`: who says no `tokens` gets the engine's own") {
  const SpeculationSpec llama = good("{method: eagle, acceptance: 0.7}");
  CHECK(llama.tokens == 5);
  CHECK(llama.branches == 4);
  CHECK(llama.query_length() == 8);
  CHECK(llama.tree_attention == TreeAttention::cascade);  // chosen before the tree is
                                                          // (arg_groups/pipeline.py)
  const SpeculationSpec qwen = good("{method: eagle, acceptance: 0.7}", "qwen3-8b");
  CHECK(qwen.tree == nullptr);
  CHECK(qwen.query_length() == 4);
  // The same tree asked for: FlashInfer (`is_no_spec_infer_or_topk_one`).
  const SpeculationSpec asked = good("{method: eagle, tokens: 5, branches: 4, verified: 8, acceptance: 0.7}");
  CHECK(asked.tree_attention == TreeAttention::masked);
  CHECK(asked.tree->expected_accepted() == llama.tree->expected_accepted());
  // A chain is a chain, said as ever.
  CHECK(good("{method: eagle, tokens: 3, acceptance: 0.7}").tree == nullptr);
  CHECK(good("{method: eagle, tokens: 3, branches: 1, acceptance: 0.7}").query_length() == 4);
}

// By hand: of what the best candidate leaves, 1 − √½ = 0.293 to the second, 1 − √⅔ = 0.184 of the rest to the
// third.
TEST_CASE("chances of later candidates: given, or an assumed law that keeps their order") {
  const SpeculationSpec assumed =
      good("{method: eagle, tokens: 2, branches: 3, verified: 6, acceptance: [0.6, 0.1]}");
  CHECK(assumed.siblings_assumed);
  const std::vector<double>& first = assumed.tree->chances[0];
  CHECK(first[1] == Approx(0.4 * (1 - std::sqrt(0.5))));
  CHECK(first[0] + first[1] + first[2] == Approx(1 - 0.4 / std::sqrt(3.0)));
  CHECK(assumed.tree->chances[1] == std::vector<double>{0.1, 0.1, 0.1});  // held down to the best
  const SpeculationSpec given =
      good("{method: eagle, tokens: 2, branches: 3, verified: 6, acceptance: 0.6, siblings: [0.5, 0.25]}");
  CHECK(given.tree->chances[1] == std::vector<double>{0.6, 0.2, 0.05});
  CHECK_FALSE(given.siblings_assumed);
}

TEST_CASE("n-grams: 12 tokens of a tree of breadth 10 unless said, in the trie's shape") {
  const SpeculationSpec own =
      good("{method: ngram, acceptance: 0.6, match_rate: 0.5, match_length: 17, siblings: []}");
  CHECK(own.query_length() == 12);
  CHECK(own.tokens == 11);  // one continuation everywhere: a chain
  CHECK(own.tree_attention == TreeAttention::cascade);
  CHECK(slots_of_decode(own, 1) == 12);
  const SpeculationSpec wide = good(
      "{method: ngram, branches: 10, verified: 12, acceptance: [0.6, 0.5], match_rate: 0.5, match_length: 1, "
      "siblings: [0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]}");
  CHECK(wide.tokens == 2);
  CHECK(good("{method: ngram, branches: 1, verified: 4, acceptance: 0.6, match_rate: 0.5}").tree == nullptr);
}

// ceil((15 + 5) / 16) pages for each of 4 branches; without pages 5 passes of 4 tokens; 8 are verified.
TEST_CASE("`get_alloc_len_per_decode`: the slots of a decode") {
  SpeculationSpec s = good("{method: eagle, acceptance: 0.7}");
  CHECK(slots_of_decode(s, 1) == 20);
  CHECK(slots_of_decode(s, 16) == 2 * 16 * 4);
  s.verified = 40;
  CHECK(slots_of_decode(s, 1) == 40);
  CHECK(slots_of_decode(good("{method: eagle, tokens: 3, acceptance: 0.7}"), 16) == 4);
}

TEST_CASE("the price of a tree: rows by what is verified and by branches, and its own kernels") {
  const auto pricer = [](const std::string& speculation) {
    Read r = read(speculation);
    REQUIRE(r.errors.empty());
    return StepPricer::create(r.spec).value();
  };
  const StepPricer chain = pricer("{method: eagle, tokens: 5, acceptance: 0.7}"),
                   cascade = pricer("{method: eagle, acceptance: 0.7}"),
                   masked = pricer("{method: eagle, tokens: 5, branches: 4, verified: 8, acceptance: 0.7}");
  const StepShape six = decodes(16, 4000, 5), eight = decodes(16, 4000, 7);
  CHECK(line(cascade, eight, "qkv_proj").flops == Approx(8.0 / 6 * line(chain, six, "qkv_proj").flops));
  for (const char* name : {"draft_next_qkv_proj", "draft_next_lm_head"})
    CHECK(line(cascade, eight, name).flops == Approx(4 * line(chain, six, name).flops));
  CHECK(line(cascade, eight, "draft_lm_head").flops == Approx(line(chain, six, "draft_lm_head").flops));
  // Keys of a context are read once for all branches by FlashAttention, once for each by FlashInfer.
  const double keys = line(chain, six, "draft_next_attention_decode").bytes;
  CHECK(line(cascade, eight, "draft_next_attention_decode").bytes == Approx(keys));
  CHECK(line(masked, eight, "draft_next_attention_decode").bytes == Approx(4 * keys));
  CHECK(line(cascade, eight, "tree_attention").count == 32);
  CHECK(line(cascade, eight, "draft_next_tree_attention").count == 4);
  CHECK(line(cascade, eight, "draft_tree_attention").count == 0);  // what was accepted lies in a row
  CHECK(line(masked, eight, "tree_attention").count == 0);
  // (5 + 1) tokens of 32 layers, 2 · 8 heads · 128 values of 2 bytes, read and written, 16 times: 25 MB.
  CHECK(line(cascade, eight, "draft_tree_commit").count == 1);
  CHECK(cascade.price(eight).busy > chain.price(six).busy);
  // Beside prompts nobody verifies (`mix_with_running`).
  StepShape mixed = decodes(16, 4000, 0);
  const std::vector<PrefillChunk> prompt{{.new_tokens = 100, .context = 0}};
  mixed.prefill = prompt;
  CHECK(line(cascade, mixed, "tree_attention").time_ns == 0);
}

// flashattention_backend.py, forward_extend's absorbed branch: `use_cascade_attn`, a second launch over the
// rows' own paths and merge_state_v2. `get_default_attn_backend`: FA3 on Hopper for latents, whatever topk
// is.
TEST_CASE(
    "a tree beside latent attention on Hopper: two passes, the second over one key of 576 for all heads") {
  const Read r = read("{method: mtp, tokens: 3, branches: 4, verified: 8, acceptance: 0.7}", "deepseek-v3",
                      "hardware: h200\n  engine: sglang-0.5\n  parallel: {tp: 8}");
  INFO(to_string(r.errors));
  REQUIRE(r.errors.empty());
  CHECK(r.spec.speculation.tree_attention == TreeAttention::cascade);
  const StepPricer pricer = StepPricer::create(r.spec).value();
  const OpLine own = line(pricer, decodes(16, 4000, 7), "tree_attention");
  CHECK(own.count == 61);
  CHECK(own.shape == "rows=128 heads=16/1 d=576");
  CHECK(own.time_ns > 0);
  CHECK(line(pricer, decodes(16, 4000, 7), "draft_next_tree_attention").count == 2);
  CHECK(line(pricer, decodes(16, 4000, 0), "tree_attention").time_ns == 0);
  const double path = r.spec.speculation.tree->mean_path();
  CHECK(own.flops == Approx((4.0 * 16 * 512 + 2.0 * 16 * 64) * path * 128 * 61));
}

// Beside prompts decodes verify nothing (`mix_with_running`), and prompts alone have nobody to verify.
// `_capture_cuda_graphs` of eagle_worker_v2.py: the first pass behind a verification is a graph, all others
// one more (`speculative_num_steps` > 1), whatever is drafted.
TEST_CASE("passes of a network are launched as two graphs beside the model's, for chains too") {
  const auto graphs = [](const std::string& speculation) {
    Read r = read(speculation);
    if (!r.errors.empty()) FAIL(to_string(r.errors));
    HostCosts& h = r.spec.engine.host;
    for (auto term : {&h.launch_piece, &h.launch_kernel}) term->value = Seconds(0);
    h.launch_graph.value = Seconds(1e-6);
    const std::int32_t drafts =
        r.spec.speculation.tree ? r.spec.speculation.tree->drafts() : r.spec.speculation.tokens;
    return StepPricer::create(r.spec).value().price(decodes(8, 1024, drafts)).launch / 1000;
  };
  CHECK(graphs("{method: eagle, tokens: 1, acceptance: 0.7}") == 2);
  CHECK(graphs("{method: eagle, tokens: 4, acceptance: 0.7}") == 3);
  CHECK(graphs("{method: eagle, acceptance: 0.7}") == 3);
  CHECK(graphs("{method: ngram, tokens: 4, acceptance: 0.7, match_rate: 0.5}") == 1);
}

TEST_CASE("what a verification launches is launched in steps that verify") {
  const auto launch = [](const std::string& speculation, const StepShape& shape) {
    Read r = read(speculation);
    REQUIRE(r.errors.empty());
    HostCosts& h = r.spec.engine.host;
    for (auto term : {&h.launch_graph, &h.launch_piece}) term->value = Seconds(0);
    h.launch_kernel.value = Seconds(1e-6);
    return StepPricer::create(r.spec).value().price(shape).launch / 1000;
  };
  const std::string chain = "{method: eagle, tokens: 5, acceptance: 0.7}",
                    own = "{method: eagle, acceptance: 0.7}";
  const auto more = [&](const StepShape& with_tree, const StepShape& with_chain) {
    return launch(own, with_tree) - launch(chain, with_chain);
  };
  // More tokens than a graph holds. Passes of a tree have softmax and top-k in place of an argmax.
  const std::vector<PrefillChunk> prompt{{.new_tokens = 12000, .context = 0}};
  StepShape alone;
  alone.prefill = prompt;
  StepShape mixed = decodes(8, 1024, 0);
  mixed.prefill = prompt;
  const std::int64_t passes = more(alone, alone);
  CHECK(more(mixed, mixed) == passes);
  // Links, mask, tables, the path moved to the front; 32 layers' second launch of attention and its sum.
  CHECK(more(decodes(100, 1024, 7), decodes(100, 1024, 5)) == passes + 6 + 4 + 12 + 11 + 32 * 4);
  CHECK(launch(own, decodes(8, 1024, 7)) == 4 + 12 + 11);
}

TEST_CASE("what is wrong with a tree is said where it stands") {
  const auto says = [](const std::string& text, const char* piece, const std::string& model = "llama-3.1-8b",
                       const std::string& rest = "hardware: h200\n  engine: sglang-0.5") {
    const Read r = read(text, model, rest);
    INFO(text << "\n" << to_string(r.errors));
    REQUIRE(!r.errors.empty());
    CHECK(to_string(r.errors).find(piece) != std::string::npos);
    CHECK(to_string(r.errors).find("s.yaml:5") != std::string::npos);
  };
  const std::string tree = "{method: eagle, tokens: 3, branches: 4, verified: ";
  says(tree + "38, acceptance: 0.7}", "the passes give 36 drafts");
  says("{method: eagle, tokens: 3, branches: 4, acceptance: 0.7}", "verified");
  says("{method: eagle, tokens: 3, verified: 4, acceptance: 0.7}", "say `branches` too");
  says("{method: eagle, branches: 4, acceptance: 0.7}", "say `tokens` too");
  says("{method: eagle, tokens: 3, acceptance: 0.7, siblings: 0.3}", "one candidate in each place");
  says(tree + "8, acceptance: 0.7, siblings: [0.3, 0.2]}", "each of the 3 others");
  says(tree + "8, acceptance: 0.3, siblings: 0.5}", "more often than a better one");
  says(tree + "8, acceptance: 0.7, match_length: 3}", "only a tree of n-grams");
  says("{method: ngram, acceptance: 0.6, match_rate: 0.5}", "match_length");
  says("{method: ngram, tokens: 3, branches: 4, acceptance: 0.6, match_rate: 0.5}", "leave `tokens` out");
  says("{method: ngram, acceptance: 0.6, match_rate: 0.5, match_length: 3}", "by Triton's kernels",
       "deepseek-v2-lite", "hardware: l40s\n  engine: sglang-0.5");
  says(tree + "8, acceptance: 0.7}", "trees of drafts are modelled for SGLang", "llama-3.1-8b",
       "hardware: h200\n  engine: vllm-0.24");
  // 0.5.9 runs trees without overlapping steps, and 0.5.5 chooses one for Qwen too.
  for (const char* speculation : {"{method: eagle, acceptance: 0.7}",
                                  "{method: eagle, tokens: 3, branches: 4, verified: 8, acceptance: 0.7}"})
    says(speculation, "by the rules of 0.5.23, not of 0.5.9", "qwen3-8b",
         "hardware: h200\n  engine: sglang-0.5.9");
  says(tree + "8, acceptance: 0.7}", "AMD", "llama-3.1-8b", "hardware: mi300x\n  engine: sglang-0.5");
  says("{method: ngram, acceptance: 0.6, match_rate: 0.5, match_length: 3, siblings: [0.2]}",
       "sliding windows", "gpt-oss-20b");
}
