#include "costmodel/profile_folder.h"

#include <algorithm>
#include <filesystem>

#include "base/files.h"
#include "base/text.h"

namespace orrery {

namespace fs = std::filesystem;

std::vector<std::string> profile_names(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code ec;
  for (fs::directory_iterator it(data_directory() + "/" + folder, ec), end; !ec && it != end;
       it.increment(ec)) {
    if (it->path().extension() == ".yaml") names.push_back(it->path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string profile_path(const std::string& folder, const std::string& name) {
  return data_directory() + "/" + folder + "/" + name + ".yaml";
}

Result<std::string> find_profile(const std::string& folder, const std::string& name, const char* what) {
  const std::vector<std::string> names = profile_names(folder);
  if (std::binary_search(names.begin(), names.end(), name)) return profile_path(folder, name);
  if (names.empty()) {
    return invalid_input(std::string("there is no ") + what + " profile in " + data_directory() + "/" +
                             folder + "; set ORRERY_DATA_DIR to the folder that holds Orrery's data",
                         {}, what);
  }
  return invalid_input(std::string("unknown ") + what + " " + quote(name) + did_you_mean(name, names) +
                           "; known: " + join(names, ", "),
                       {}, what);
}

}  // namespace orrery
