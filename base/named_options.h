// Named scalars: settings whose names belong to data files, carried to the one place that reads them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>

#include "base/check.h"

namespace orrery {

using OptionValue = std::variant<std::int64_t, double, bool, std::string>;

class NamedOptions {
 public:
  void set(const std::string& name, OptionValue value) { values_[name] = std::move(value); }
  bool has(std::string_view name) const { return values_.find(name) != values_.end(); }
  // Each asks for a name that is there with that type.
  std::int64_t integer(std::string_view name) const { return get<std::int64_t>(name); }
  bool flag(std::string_view name) const { return get<bool>(name); }
  const std::string& text(std::string_view name) const { return get<std::string>(name); }
  double number(std::string_view name) const {  // integers too
    const OptionValue& value = at(name);
    if (const auto* whole = std::get_if<std::int64_t>(&value)) return static_cast<double>(*whole);
    return get<double>(name);
  }
  const std::map<std::string, OptionValue, std::less<>>& all() const { return values_; }  // by name

 private:
  const OptionValue& at(std::string_view name) const {
    const auto it = values_.find(name);
    ORRERY_CHECK(it != values_.end(), "an option that nobody set");
    return it->second;
  }
  template <class T>
  const T& get(std::string_view name) const {
    const auto* value = std::get_if<T>(&at(name));
    ORRERY_CHECK(value != nullptr, "an option of another type");
    return *value;
  }

  std::map<std::string, OptionValue, std::less<>> values_;
};

}  // namespace orrery
