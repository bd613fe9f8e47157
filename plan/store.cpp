#include "plan/store.h"

#include <sqlite3.h>

#include <atomic>
#include <filesystem>
#include <mutex>
#include <set>

namespace orrery {

struct PlanStore::State {
  sqlite3* database = nullptr;
  sqlite3_stmt* select = nullptr;
  sqlite3_stmt* insert = nullptr;
  std::string path;
  std::mutex mutex;
  std::uint64_t found = 0;
  bool keeps_new = false;
  PlanResults fresh;
  std::set<std::string> others;  // keys of results that others made for this run
  bool write(const std::string& key, const std::string& value) {
    sqlite3_bind_text(insert, 1, key.c_str(), -1, SQLITE_TRANSIENT);
    sqlite3_bind_text(insert, 2, value.c_str(), -1, SQLITE_TRANSIENT);
    const bool done = sqlite3_step(insert) == SQLITE_DONE;
    sqlite3_reset(insert);
    return done;
  }
  ~State() {
    sqlite3_finalize(select);
    sqlite3_finalize(insert);
    sqlite3_close(database);
  }
};

namespace {

Error database_error(sqlite3* database, const std::string& path, const char* doing) {
  const std::string why = database == nullptr ? "out of memory" : sqlite3_errmsg(database);
  return make_error(ErrorKind::invalid_input,
                    std::string("the search's store cannot be ") + doing + ": " + why +
                        "; give another --out, or remove the file",
                    {path, 0, 0});
}

// First column of the first row; nothing where there is none.
std::optional<std::string> first_text(sqlite3* database, const char* sql) {
  sqlite3_stmt* statement = nullptr;
  std::optional<std::string> text;
  if (sqlite3_prepare_v2(database, sql, -1, &statement, nullptr) == SQLITE_OK &&
      sqlite3_step(statement) == SQLITE_ROW) {
    if (const auto* value = sqlite3_column_text(statement, 0); value != nullptr)
      text = reinterpret_cast<const char*>(value);
  }
  sqlite3_finalize(statement);
  return text;
}

Error of_another(const std::string& path) {
  return invalid_input(
      "this search was begun with another space, workload or version of orrery; leave --resume out "
      "to begin anew, or give another --out",
      {path, 0, 0});
}

void remove_store(const std::string& path) {
  std::error_code ignored;
  for (const char* part : {"", "-wal", "-shm"}) std::filesystem::remove(path + part, ignored);
}

}  // namespace

PlanStore::PlanStore() : state_(std::make_unique<State>()) {}
PlanStore::PlanStore(PlanStore&&) noexcept = default;
PlanStore& PlanStore::operator=(PlanStore&&) noexcept = default;
PlanStore::~PlanStore() = default;

Result<PlanStore> PlanStore::in_memory(const std::string& identity) {
  return open(":memory:", identity, StoreStart::either);
}

Result<PlanStore> PlanStore::open(const std::string& path, const std::string& identity, StoreStart start) {
  if (start == StoreStart::resume && !std::filesystem::exists(path)) {
    return invalid_input("there is no search to resume here; leave --resume out to begin one", {path, 0, 0});
  }
  if (start != StoreStart::resume) {
    std::error_code ignored;  // what stands in the way shows when the store is opened
    std::filesystem::create_directories(std::filesystem::path(path).parent_path(), ignored);
    if (start == StoreStart::anew) remove_store(path);
  }
  PlanStore store;
  State& s = *store.state_;
  s.path = path;
  if (sqlite3_open(path.c_str(), &s.database) != SQLITE_OK) return database_error(s.database, path, "opened");
  sqlite3_busy_timeout(s.database, 10'000);
  // A killed process loses nothing in WAL mode; a machine that loses power may lose the last results, which
  // are then computed again.
  constexpr const char* set_up =
      "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
      "CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);"
      "CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;";
  if (sqlite3_exec(s.database, set_up, nullptr, nullptr, nullptr) != SQLITE_OK)
    return database_error(s.database, path, "used");
  const auto made_for = first_text(s.database, "SELECT value FROM about WHERE name = 'identity'");
  if (made_for && *made_for != identity) return of_another(path);
  constexpr const char* remember = "INSERT OR IGNORE INTO about VALUES ('identity', ?1)";
  sqlite3_stmt* statement = nullptr;
  if (sqlite3_prepare_v2(s.database, remember, -1, &statement, nullptr) != SQLITE_OK)
    return database_error(s.database, path, "used");
  sqlite3_bind_text(statement, 1, identity.c_str(), -1, SQLITE_TRANSIENT);
  const bool remembered = sqlite3_step(statement) == SQLITE_DONE;
  sqlite3_finalize(statement);
  constexpr const char* select = "SELECT value FROM results WHERE key = ?1";
  constexpr const char* insert = "INSERT OR REPLACE INTO results VALUES (?1, ?2)";
  if (!remembered || sqlite3_prepare_v2(s.database, select, -1, &s.select, nullptr) != SQLITE_OK ||
      sqlite3_prepare_v2(s.database, insert, -1, &s.insert, nullptr) != SQLITE_OK)
    return database_error(s.database, path, "used");
  return store;
}

std::optional<std::string> PlanStore::find(const std::string& key) {
  State& s = *state_;
  if (s.database == nullptr) return std::nullopt;
  const std::scoped_lock lock(s.mutex);
  std::optional<std::string> value;
  sqlite3_bind_text(s.select, 1, key.c_str(), -1, SQLITE_TRANSIENT);
  if (sqlite3_step(s.select) == SQLITE_ROW) {
    value = reinterpret_cast<const char*>(sqlite3_column_text(s.select, 0));
    if (!s.others.contains(key)) ++s.found;
  }
  sqlite3_reset(s.select);
  return value;
}

Status PlanStore::put(const std::string& key, const std::string& value) {
  State& s = *state_;
  if (s.database == nullptr) return ok_status();
  const std::scoped_lock lock(s.mutex);
  if (!s.write(key, value)) return database_error(s.database, s.path, "written");
  if (s.keeps_new) s.fresh.emplace_back(key, value);
  return ok_status();
}

Status PlanStore::add(const PlanResults& results, bool by_an_earlier_run) {
  State& s = *state_;
  if (s.database == nullptr) return ok_status();
  const std::scoped_lock lock(s.mutex);
  bool done = sqlite3_exec(s.database, "BEGIN", nullptr, nullptr, nullptr) == SQLITE_OK;
  for (const auto& [key, value] : results) {
    done = done && s.write(key, value);
    if (!by_an_earlier_run) s.others.insert(key);
  }
  done = sqlite3_exec(s.database, "COMMIT", nullptr, nullptr, nullptr) == SQLITE_OK && done;
  if (!done) return database_error(s.database, s.path, "written");
  return ok_status();
}

Result<PlanResults> PlanStore::all() const {
  State& s = *state_;
  PlanResults results;
  if (s.database == nullptr) return results;
  const std::scoped_lock lock(s.mutex);
  sqlite3_stmt* statement = nullptr;
  int step =
      sqlite3_prepare_v2(s.database, "SELECT key, value FROM results ORDER BY key", -1, &statement, nullptr);
  if (step == SQLITE_OK) {
    const auto text = [&](int column) {
      return std::string(reinterpret_cast<const char*>(sqlite3_column_text(statement, column)));
    };
    while ((step = sqlite3_step(statement)) == SQLITE_ROW) results.emplace_back(text(0), text(1));
  }
  sqlite3_finalize(statement);
  if (step != SQLITE_DONE) return database_error(s.database, s.path, "read");
  return results;
}

// A store that was closed is a file that is only read, without locks: shards on several machines may do so at
// once. One that a killed process left has more in its log, which SQLite has to put into it first.
Result<PlanResults> PlanStore::read(const std::string& path, const std::string& identity) {
  std::error_code none;
  if (!std::filesystem::exists(path))
    return invalid_input("there is no store of a search here", {path, 0, 0}, "--merge");
  if (const auto log = std::filesystem::file_size(path + "-wal", none); !none && log > 0) {
    ORRERY_TRY(store, open(path, identity, StoreStart::resume));
    return store.all();
  }
  std::string uri = "file:";
  for (const char c : std::filesystem::absolute(path).lexically_normal().string())
    uri += c == '%' ? "%25" : c == '?' ? "%3f" : c == '#' ? "%23" : std::string(1, c);
  PlanStore store;
  State& s = *store.state_;
  s.path = path;
  if (sqlite3_open_v2((uri + "?immutable=1").c_str(), &s.database, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI,
                      nullptr) != SQLITE_OK)
    return database_error(s.database, path, "opened");
  if (first_text(s.database, "SELECT value FROM about WHERE name = 'identity'").value_or(identity) !=
      identity)
    return of_another(path);
  return store.all();
}

void PlanStore::keep_new() { state_->keeps_new = true; }

PlanResults PlanStore::take_new() {
  const std::scoped_lock lock(state_->mutex);
  return std::exchange(state_->fresh, {});
}

std::uint64_t PlanStore::found() const { return state_->found; }

}  // namespace orrery
