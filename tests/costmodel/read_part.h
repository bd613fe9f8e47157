// A part by its name.
#pragma once

#include <string>
#include <utility>

#include "catch.h"
#include "costmodel/hardware.h"

inline orrery::HardwareProfile part(const std::string& name) {
  auto loaded = orrery::load_hardware(name);
  REQUIRE(loaded.ok());
  return std::move(loaded).value();
}
