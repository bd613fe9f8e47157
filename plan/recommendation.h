// The answer of a search, for people and for programs.
#pragma once

#include <string>

#include "base/json.h"
#include "plan/search.h"

namespace orrery {

struct RecommendationInput {
  const PlanSpace* space = nullptr;
  const PlanSearch* search = nullptr;
  std::string command;  // as a shell would take it
  std::string version;
};

// Whether a finalist meets the SLO (or there is none and it answered everything).
bool has_choice(const PlanSearch& search);

Json recommendation_json(const RecommendationInput& input);
std::string recommendation_markdown(const RecommendationInput& input);
Result<std::string> recommendation_page(const RecommendationInput& input);  // needs the charts library
std::string recommendation_text(const RecommendationInput& input);          // for a terminal
std::string candidates_csv(const RecommendationInput& input);

// What nobody met: the nearest, by how much it misses, and which limit to relax.
Error no_deployment(const RecommendationInput& input);

// recommendation.{json,md,html}, candidates.csv, choice.yaml and alternative-N.yaml (scenarios that
// `simulate` and `live` take), and what starts them (plan/deploy.h); each under a temporary name first.
// Without the charts library there is no page.
Status write_recommendation(const std::string& folder, const RecommendationInput& input);

}  // namespace orrery
