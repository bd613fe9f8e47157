// Deliberate mistakes for testing the tests (rule D9). In a normal build ORRERY_MUTANT(n) is the constant
// false and costs nothing; in a build with -DORRERY_MUTANTS=ON one mutant is chosen at run time by the
// environment variable ORRERY_MUTANT, and tests/determinism shows that its test then fails.
#pragma once

namespace orrery {
enum class Mutant : int {
  none = 0,
  event_order_ignores_actor = 1,         // outcomes of one instant handled in container order
  arrival_order_from_container = 2,      // simultaneous arrivals in the order in which the Inbox gave them
  stretch_skips_context_growth = 3,      // a decode stretch priced at its first context sum
  thread_seed_from_schedule = 4,         // a paired run's seed taken from its completion order
  seed_from_address = 5,                 // a value that differs between processes in the digest
  fused_multiply_add = 6,                // a price through std::fma, as contraction would do
  prompts_leave_other_ranks_graphs = 7,  // a rank with prompts does not take the decode graph from the others
  no_barrier_between_ranks = 8,          // a joint step is as long as its first rank alone
  stretch_sends_every_token = 9,         // in a stretch the API server sends what stream_interval holds
  waiting_counts_as_running = 10,         // vLLM's front end weighs a waiting request as a running one
};
#ifdef ORRERY_MUTANTS
bool mutant_is(Mutant m);
#define ORRERY_MUTANT(name) (::orrery::mutant_is(::orrery::Mutant::name))
#else
#define ORRERY_MUTANT(name) false
#endif
}  // namespace orrery
