// Defaults that another version of an engine has otherwise, over a profile that describes its arguments one
// by one.
#pragma once

#include "costmodel/typed_profile.h"

namespace orrery {

// `defaults` of an overlay: values by the names of the arguments, and where they are known from.
void change_typed_defaults(const Yaml& node, TypedProfile& profile);

}  // namespace orrery
