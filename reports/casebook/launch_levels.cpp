#include "reports/casebook/launch_levels.h"

#include <algorithm>

#include "reports/casebook/robust_fit.h"

namespace orrery {

namespace {

using Mode = StepSample::Mode;

struct Launches {
  LevelRatios ratios;  // of what launching takes beyond `launch_graph`
  std::vector<double> excess;
};

// launch_kernel and its like, and what a busy host's launches take beside them.
void settle_eager(LaunchLevels& out, double graph, double excess) {
  const double busy = out.beside.told ? out.beside.factor : 1;
  // Where no prompt was alone, those of a busy host stand for them.
  out.eager = out.lone.told ? out.lone.factor : out.lone.few ? busy : 1;
  out.jitter = (graph + busy * excess) / (graph + out.eager * excess);
  const std::string why = out.lone.few && !out.beside.few ? level_text(out.beside) : level_text(out.lone);
  for (const char* key : {"launch_kernel", "launch_experts", "launch_collective"}) {
    if (out.eager == 1)
      out.kept[key] = why;
    else
      out.notes[key] = std::string(out.lone.told ? "of prompts alone" : "of steps beside decodes") +
                       "; one factor for all launches: the log of one model cannot tell them apart";
  }
  if (out.jitter == 1 && !out.beside.told)
    out.kept["launch_jitter_median"] = level_text(out.beside);
  else if (!out.beside.told)
    out.notes["launch_jitter_median"] =
        "so that launches beside decodes stay as they were: " + level_text(out.beside);
  else
    out.notes["launch_jitter_median"] = "of steps beside decodes";
}

// launch_piece: beside decodes under the spread that is now the engine's.
void settle_pieces(LaunchLevels& out, double graph, double excess) {
  const char* key = "launch_piece";
  if (!out.beside_pieces.few) {
    const double level = out.beside_pieces.told ? out.beside_pieces.factor : 1;
    out.piecewise = std::max(0.0, ((graph + level * excess) / out.jitter - graph) / excess);
    out.notes[key] = out.beside_pieces.told ? "of steps beside decodes" : level_text(out.beside_pieces);
  } else if (out.lone_pieces.told) {
    out.piecewise = out.lone_pieces.factor;
    out.notes[key] = "of prompts alone";
  } else {
    out.piecewise = out.eager;
    out.notes[key] = "too few piecewise steps beside decodes; scaled with launch_kernel";
  }
  if (out.eager == 1 && out.piecewise == 1) out.kept[key] = level_text(out.beside_pieces);
}

// Drafting is launched by the same terms, in decode steps, of whose pace prompts say nothing: they stay the
// profile's, and prompts beside decodes have their level in the spread alone.
void keep_for_drafts(LaunchLevels& out, double graph, double excess) {
  out.eager = out.piecewise = 1;
  out.jitter = out.beside.told ? (graph + out.beside.factor * excess) / (graph + excess) : 1;
  out.notes.clear();
  for (HostLevel* level : {&out.lone, &out.lone_pieces, &out.beside_pieces}) level->refused = true;
  for (const char* key : {"launch_kernel", "launch_experts", "launch_collective", "launch_piece"})
    out.kept[key] = "launches drafts too, of which prompts say nothing";
  if (out.beside.told)
    out.notes["launch_jitter_median"] = "of steps beside decodes";
  else
    out.kept["launch_jitter_median"] = level_text(out.beside);
}

}  // namespace

LaunchLevels launch_levels(const std::vector<StepSample>& samples, const InstanceSpec& spec,
                           double launch_graph, double per_sequence) {
  const double spread = middle_mean_of_spread(spec.engine.host);
  Launches lone, lone_pieces, beside, beside_pieces;
  for (const StepSample& s : samples) {
    // Beside a device that is busy much longer, what launching takes is of no matter, and is longer.
    const bool matters = s.busy < 8 * (s.graph + s.excess);
    if (!s.prompts || s.mode == Mode::full || s.excess <= 0 || !s.unblocked() || !matters) continue;
    const bool pieces = s.mode == Mode::piecewise;
    Launches& l = s.decodes ? (pieces ? beside_pieces : beside) : (pieces ? lone_pieces : lone);
    const double launch = (s.launch - per_sequence * s.sequences) / (s.decodes ? spread : 1);
    // Prompts that come alone lie apart, one to a load or many.
    l.ratios[s.decodes ? s.experiment : 0].push_back((launch - launch_graph) / s.excess);
    l.excess.push_back(s.excess);
  }
  const double doubt = host_doubt(spec);
  LaunchLevels out;
  out.lone = host_level("prompts alone, kernel by kernel", lone.ratios, LevelOf::apart, doubt);
  out.lone_pieces = host_level("prompts alone, in pieces", lone_pieces.ratios, LevelOf::apart, doubt);
  out.beside =
      host_level("prompts beside decodes, kernel by kernel", beside.ratios, LevelOf::middle_mean, doubt);
  out.beside_pieces =
      host_level("prompts beside decodes, in pieces", beside_pieces.ratios, LevelOf::middle_mean, doubt);
  const auto typical = [](const Launches& a, const Launches& b) {
    const double excess = median_of(a.excess.empty() ? b.excess : a.excess);
    return excess > 0 ? excess : 1.0;
  };
  settle_eager(out, launch_graph, typical(beside, lone));
  settle_pieces(out, launch_graph, typical(beside_pieces, lone_pieces));
  if (spec.speculation.has_network()) keep_for_drafts(out, launch_graph, typical(beside, lone));
  return out;
}

}  // namespace orrery
