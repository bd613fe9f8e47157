// TensorRT-LLM 1.2 with speculative decoding, on the scheduler alone: passes checked by hand. How to read a
// line: tensorrt_llm_desk.h. The section of ../shared/reference/tensorrt_llm_1_2.md stands in the name.
#include "catch.h"
#include "tensorrt_llm_desk.h"

using namespace orrery;
using desk::Desk;
using desk::Fixed;

namespace {

// A network of one model: with overlap, every row brings k drafts. `extra`: one-model EAGLE-3's k − 1.
SchedulerConfig network(std::int32_t k, std::int64_t blocks, std::int32_t extra = 0,
                        std::int64_t tokens = 8192) {
  SchedulerConfig c = desk::config(blocks, tokens);
  c.speculation = {.tokens = k, .lookahead = extra};
  return c;
}

SchedulerConfig ngram(std::int32_t k, std::int64_t blocks) {
  SchedulerConfig c = desk::config(blocks);
  c.steps_in_flight = 1;
  c.speculation = {.tokens = k, .padded = true};
  return c;
}

}  // namespace

TEST_CASE("§8 a row is 1 + k tokens of the budget, never cut: the first that does not fit ends the batch") {
  Fixed oracle;
  Desk d(network(3, 100, 0, 11), oracle);
  for (int i = 0; i < 3; ++i) d.add({.prompt = 3, .max_output = 50});
  CHECK(d.pass() == "0:3@0 free 99");
  CHECK(d.pass() == "1:3@0 2:3@0 0+3 free 97");
  CHECK(d.tokens() == 10);
  CHECK(d.pass() == "0+3 1+3 free 97");  // 8 of 11 tokens; 3 are no row
  CHECK(d.tokens() == 8);
}

TEST_CASE("§8 §4.1 blocks are taken for all drafts, and go back with the update that rejects them") {
  Fixed oracle;
  Desk d(network(3, 10), oracle);
  d.add({.prompt = 30, .max_output = 50});
  CHECK(d.pass() == "0:30@0 free 9");
  CHECK(d.pass() == "0+3 free 8");  // 34 tokens; the update that follows is the prompt's
  // The row of pass 2 is not known yet: 38 tokens. Then its three drafts go back, 35 are left.
  CHECK(d.pass() == "0+3 free 8");
  CHECK(d.scheduler().view().free_blocks == 8);
  oracle.accepts = 3;
  CHECK(d.pass() == "0+3 free 8");  // 39; this update rejects the row of pass 3
  // Without overlap the block that only drafts needed is free before the next pass.
  auto c = network(3, 10);
  c.steps_in_flight = 1;
  oracle.accepts = 0;
  Desk e(c, oracle);
  e.add({.prompt = 29, .max_output = 50});
  CHECK(e.pass() == "0:29@0 free 9");
  CHECK(e.pass() == "0+3 free 8");  // 33 tokens, of which 30 stay
  CHECK(e.scheduler().view().free_blocks == 9);
}

TEST_CASE("§4.1 one-model EAGLE-3 keeps k - 1 tokens more for a sequence, MTP none") {
  Fixed oracle;
  Desk eagle(network(3, 10, 2), oracle), mtp(network(3, 10), oracle);
  for (Desk* d : {&eagle, &mtp}) d->add({.prompt = 31, .max_output = 50});
  CHECK(eagle.pass() == "0:31@0 free 8");
  CHECK(mtp.pass() == "0:31@0 free 9");
}

TEST_CASE(
    "§8 1 + accepted tokens a step; an end that drafts bring is unforeseen, and wastes a row with overlap") {
  Fixed oracle;
  oracle.accepts = 2;
  Desk d(network(2, 20), oracle);
  d.add({.prompt = 10, .max_output = 7});
  CHECK(d.pass() == "0:10@0 free 19");
  CHECK(d.pass() == "0+2 free 19");                 // update: 1 token
  CHECK(d.pass() == "0+2 free 19");                 // update: 4
  CHECK(d.pass() == "0+2 free 19; end 0 after 7");  // a third row was launched before that was known
  CHECK_FALSE(d.scheduler().has_work());
  CHECK(d.update().empty());
  CHECK(d.scheduler().view().free_blocks == 20);
  CHECK(d.scheduler().counters().speculation.accepted == 4);
}

TEST_CASE("§1.2 §8 with one token to go the row in flight certainly ends it: no further row") {
  Fixed oracle;
  Desk d(network(2, 20), oracle);
  d.add({.prompt = 10, .max_output = 3});
  CHECK(d.pass() == "0:10@0 free 19");
  CHECK(d.pass() == "0+2 free 19");
  CHECK(d.pass() == "0+2 free 19");  // known: 1, in flight: at least the second
  CHECK(d.pass() == "free 19; end 0 after 3");
}

TEST_CASE("§8 drafts behind an EOS are dropped") {
  Fixed oracle;
  oracle.accepts = 3;
  Desk d(network(3, 20), oracle);
  d.add({.prompt = 10, .max_output = 50, .eos = 3});
  d.pass();
  d.pass();
  CHECK(d.pass() == "0+3 free 19; end 0 after 3");
}

TEST_CASE("§8 n-grams: a row is padded to 1 + k, proposed or not, and accepts only what was proposed") {
  Fixed oracle;
  oracle.accepts = 4;
  Desk d(ngram(4, 20), oracle);
  d.add({.prompt = 30, .max_output = 20});
  CHECK(d.pass() == "0:30@0 free 19");
  CHECK(d.pass() == "0+0 free 18");  // nothing was found; 35 tokens all the same
  CHECK(d.tokens() == 5);
  oracle.proposes = 4;
  CHECK(d.pass() == "0+0 free 18");
  CHECK(d.pass() == "0+4 free 18");
  CHECK(d.scheduler().counters().speculation.tokens == 1 + 1 + 5);
}

TEST_CASE(
    "§8 max_concurrency: more active requests than that, and nobody drafts; the budget counts drafts still") {
  Fixed oracle;
  oracle.accepts = 2;
  auto c = network(2, 100, 0, 12);
  c.steps_in_flight = 1;
  c.speculation.max_concurrency = 2;
  Desk d(c, oracle);
  for (int i = 0; i < 3; ++i) d.add({.prompt = 2, .max_output = i == 0 ? 4 : 40});
  CHECK(d.pass() == "0:2@0 free 99");
  CHECK(d.pass() == "1:2@0 2:2@0 0+0 free 97");  // three are active
  CHECK_FALSE(d.drafting());
  CHECK(d.pass() == "0+0 1+0 2+0 free 97");
  CHECK(d.tokens() == 3);
  CHECK(d.pass() == "0+0 1+0 2+0 free 97; end 0 after 4");
  CHECK(d.pass() == "1+2 2+2 free 98");
  CHECK(d.drafting());
  // 12 tokens hold 3 rows of 1 + 3: with more requests than rows it is the rows that count.
  c.speculation.tokens = 3;
  c.speculation.max_concurrency = 3;
  Desk e(c, oracle);
  for (int i = 0; i < 4; ++i) e.add({.prompt = 2, .max_output = 40});
  e.pass();
  e.pass();
  CHECK(e.pass() == "0+3 1+3 2+3 free 96");
}

TEST_CASE(
    "§2.1 §8 admission reserves prompt and limit, drafts or not; what lies behind a limit is nobody's due") {
  Fixed oracle;
  // 32 + 32 tokens are two blocks each, and four are there. With 60 tokens known a row reaches 64; drafts
  // behind that go without a block.
  auto c = network(3, 4);
  c.steps_in_flight = 1;
  Desk d(c, oracle);
  d.add({.prompt = 32, .max_output = 32});
  d.add({.prompt = 32, .max_output = 32});
  CHECK(d.pass() == "0:32@0 free 3");
  CHECK(d.pass() == "1:32@0 0+3 free 1");
  std::string line;
  for (int i = 0; i < 30; ++i) line = d.pass();
  CHECK(line == "0+3 1+3 free 0; end 0 after 32");
  CHECK(d.pass() == "1+3 free 1; end 1 after 32");  // its drafts found room: a third block
  CHECK(d.scheduler().view().free_blocks == 4);
}

TEST_CASE("§2.3 §8 max utilization pauses for a row's drafts too; what was in flight joins the prompt") {
  Fixed oracle;
  auto c = network(3, 4);
  c.tensorrt_llm.max_utilization = true;
  Desk d(c, oracle);
  d.add({.prompt = 30, .max_output = 60});
  d.add({.prompt = 30, .max_output = 60});
  CHECK(d.pass() == "0:30@0 free 3");
  CHECK(d.pass() == "1:30@0 0+3 free 1");
  CHECK(d.pass() == "0+3 1+3 free 0");
  // A token a pass stays, and the three drafts of the row in flight do not. 61 + 4 tokens are the third
  // block.
  std::string line;
  int passes = 0;
  while (line.rfind("pause", 0) != 0 && passes < 60) {
    line = d.pass();
    ++passes;
  }
  CHECK(line == "pause 1 0+3 free 1");
  CHECK(passes == 27);  // in pass n, 30 + (n - 3) + 4 tokens are there: n = 30
  for (int i = 0; i < 100 && d.scheduler().has_work(); ++i) line = d.pass();
  CHECK(line.find("end 1 after 60") != std::string::npos);
  CHECK(d.scheduler().view().free_blocks == 4);
}

TEST_CASE("§8 who leaves while it speaks ends with the tokens that are known, and gives all blocks back") {
  Fixed oracle;
  oracle.accepts = 1;
  Desk d(network(3, 20), oracle);
  d.add({.prompt = 10, .max_output = 100});
  for (int i = 0; i < 4; ++i) d.pass();
  CHECK(d.scheduler().drop_departed(SequenceId(0)) == -1);
  CHECK(d.pass() == "0+3 free 19; end 0 after 7");
  CHECK(d.scheduler().view().free_blocks == 20);
}

// `add_token` once for each token of the row: those that will be rejected move the window's front too, and
// `removeToken` gives the last block back, not the front.
TEST_CASE("§8 §4.1 a row of drafts moves the window's front, and a rejected one does not bring it back") {
  Fixed oracle;
  auto c = network(3, 20);
  c.steps_in_flight = 1;
  c.enable_prefix_caching = false;
  c.tensorrt_llm.window = 64;
  c.tensorrt_llm.window_blocks = 20;
  Desk d(c, oracle);
  const auto& scheduler = dynamic_cast<TensorRtLlmScheduler&>(d.scheduler());
  d.add({.prompt = 93, .max_output = 60});
  CHECK(d.pass() == "0:93@0 free 17");
  CHECK(scheduler.window_free_blocks() == 17);
  // 97 tokens: a fourth block, and 33 of them are out of the window, one block whole.
  CHECK(d.pass() == "0+3 free 16");
  // 94 stay: the fourth block is back in both pools, the first one is gone for good.
  CHECK(scheduler.view().free_blocks == 17);
  CHECK(scheduler.window_free_blocks() == 18);
  CHECK(d.pass() == "0+3 free 16");  // 98
  CHECK(scheduler.window_free_blocks() == 18);
  oracle.accepts = 3;
  for (int i = 0; i < 40 && d.scheduler().has_work(); ++i) d.pass();
  CHECK_FALSE(d.scheduler().has_work());
  CHECK(scheduler.window_free_blocks() == 20);
  CHECK(scheduler.view().free_blocks == 20);
}
