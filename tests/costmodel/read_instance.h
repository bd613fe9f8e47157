// A deployment's text as an instance, with every error that it has.
#pragma once

#include <string>

#include "base/yaml_reader.h"
#include "costmodel/instance_spec.h"

struct Read {
  orrery::InstanceSpec spec;
  orrery::Errors errors;
};

inline Read read(const std::string& text) {
  orrery::YamlDocument document = orrery::YamlDocument::parse(text, "s.yaml").value();
  Read r;
  r.spec = orrery::read_instance_spec(document.root(), ".", r.errors);
  for (const orrery::Error& error : document.errors()) r.errors.push_back(error);
  return r;
}
