// What becomes of each of `engine_args`, as the profile's lists say; what an effective one does is the
// business of whoever derives from this.
#pragma once

#include <string>

#include "costmodel/engine_profile.h"
#include "costmodel/parallel_plan.h"
#include "costmodel/profile_reader.h"

namespace orrery {

class ArgumentResolver {
 public:
  ArgumentResolver(EngineProfile& engine, const ParallelPlan& plan) : engine_(engine), plan_(plan) {}
  virtual ~ArgumentResolver() = default;
  void apply_all(const Yaml& args);  // absent: nothing given

 protected:
  virtual void apply_effective(const std::string& name, const Yaml& value) = 0;

  EngineProfile& engine_;
  const ParallelPlan& plan_;

 private:
  void apply_map(const Yaml& map, const std::string& prefix);
  void apply(const std::string& name, const Yaml& value);
  bool is_group(const std::string& name) const;
  void apply_elsewhere(const EngineArgument& argument, const Yaml& value);
};

}  // namespace orrery
