#include "calibrate/check_children.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>

#include <algorithm>
#include <filesystem>

#include "base/files.h"
#include "base/text.h"

namespace orrery::calibrate {

namespace fs = std::filesystem;

namespace {

constexpr double poll_s = 0.02;
constexpr double least_start_s = 3;  // with less, an operator is not begun
constexpr double burial_s = 5;  // a process whose kernel hangs may take a while to die; no longer than that

struct Child {
  std::string op, part;
  pid_t pid = -1;
  double began = 0, killed = 0;
  bool was_killed = false;
};

pid_t start(const std::vector<std::string>& command) {
  std::vector<std::string> words = command;
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t pid = -1;
  return ::posix_spawn(&pid, arguments.front(), nullptr, nullptr, arguments.data(), environ) == 0 ? pid : -1;
}

constexpr int check_failed = 7;

// How a child ended that did not end well; empty when it did.
std::string misfortune(const Child& child, int status, double timeout_s) {
  if (child.was_killed) return "hung: killed after " + format_fixed(timeout_s, 1) + " s";
  if (WIFSIGNALED(status)) return "crashed: signal " + std::to_string(WTERMSIG(status));
  const int code = WEXITSTATUS(status);
  if (code == 0 || code == check_failed) return "";
  return "its process ended with code " + std::to_string(code);
}

class Children {
 public:
  Children(const ChildOptions& options, Timer& timer, CheckLog& log)
      : options_(options), timer_(timer), log_(log) {}

  CheckSummary run(const std::vector<std::string>& ops) {
    std::size_t next = 0;
    while (next < ops.size() || !running_.empty()) {
      summary_.interrupted = summary_.interrupted || options_.interrupted();
      if (summary_.interrupted && running_.empty()) return summary_;
      while (!summary_.interrupted && next < ops.size() && running_.size() < options_.at_once) {
        begin(ops[next], ops.size() - next);
        ++next;
      }
      timer_.pause(poll_s);
      std::vector<Child> still;
      for (Child& child : running_) {
        if (!ended(child)) still.push_back(child);
      }
      running_ = std::move(still);
    }
    return summary_;
  }

 private:
  // What is left of the budget is shared by the operators that wait, so many at a time.
  void begin(const std::string& op, std::size_t waiting) {
    const double left = options_.deadline - timer_.seconds();
    const double turns =
        static_cast<double>(waiting + options_.at_once) / static_cast<double>(options_.at_once);
    const double budget = std::min(options_.timeout_s - options_.margin_s, left / turns - 1);
    if (left < least_start_s) {
      CheckOutcome o;
      o.op = op;
      o.shape = "all";
      o.state = CheckState::left_out;
      o.detail = "no time left";
      done(op, {o}, 0);
      return;
    }
    Child child;
    child.op = op;
    child.part = options_.directory + "/" + op + ".part.jsonl";
    child.began = timer_.seconds();
    std::error_code ec;
    fs::remove(child.part, ec);
    child.pid = start(options_.command(op, child.part, std::max(budget, 1.0)));
    if (child.pid > 0)
      running_.push_back(child);
    else
      done(op, {failure(op, {}, "its process could not be started")}, 0);
  }

  static CheckOutcome failure(const std::string& op, const Part& part, const std::string& detail) {
    CheckOutcome o = part.unfinished ? part.last : CheckOutcome{};
    o.op = op;
    if (!part.unfinished) o.shape = part.outcomes.empty() ? "before the first case" : "after the last case";
    o.state = CheckState::failed;
    o.detail = detail;
    return o;
  }

  bool ended(Child& child) {
    int status = 0;
    const double now = timer_.seconds();
    const double end = std::min(child.began + options_.timeout_s, options_.deadline + options_.margin_s);
    if (::waitpid(child.pid, &status, WNOHANG) != child.pid) {
      if (!child.was_killed && (now >= end || summary_.interrupted)) {
        ::kill(child.pid, SIGKILL);
        child.was_killed = true;
        child.killed = now;
      }
      if (!child.was_killed || now < child.killed + burial_s) return false;
    }
    Part part = read_part(child.part);
    const std::string wrong = misfortune(child, status, child.killed - child.began);
    if (!wrong.empty() && !summary_.interrupted) {
      part.outcomes.push_back(failure(child.op, part, wrong));
      log_.outcome(part.outcomes.back());
    }
    std::error_code ec;
    fs::remove(child.part, ec);
    done(child.op, part.outcomes, now - child.began);
    return true;
  }

  void done(const std::string& op, const std::vector<CheckOutcome>& outcomes, double seconds) {
    for (const CheckOutcome& o : outcomes) summary_.add(o);
    OperatorSummary line = summarise(op, outcomes);
    line.seconds = seconds;
    log_.operator_done(line);
    note_unchecked(op, outcomes, summary_);
  }

  const ChildOptions& options_;
  Timer& timer_;
  CheckLog& log_;
  std::vector<Child> running_;
  CheckSummary summary_;
};

}  // namespace

CheckSummary run_children(const std::vector<std::string>& ops, const ChildOptions& options, Timer& timer,
                          CheckLog& log) {
  return Children(options, timer, log).run(ops);
}

Result<PartWriter> PartWriter::create(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "we");
  if (file == nullptr) return invalid_input("cannot be written", {path, 0, 0});
  return PartWriter(file);
}

void PartWriter::line(const Json& json) {
  const std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  std::fwrite(text.data(), 1, text.size(), file_.get());
  std::fflush(file_.get());
}

void PartWriter::begin(const CheckOutcome& o) { line({{"begin", outcome_json(o)}}); }
void PartWriter::end(const CheckOutcome& o) { line(outcome_json(o)); }

Part read_part(const std::string& path) {
  Part part;
  const auto text = read_text_file(path);
  if (!text.ok()) return part;
  std::size_t from = 0;
  for (std::size_t end = text->find('\n'); end != std::string::npos; end = text->find('\n', from)) {
    const auto json = parse_json(text->substr(from, end - from), path);
    from = end + 1;
    CheckOutcome o;
    if (json.ok() && json->is_object() && json->contains("begin") && parse_outcome((*json)["begin"], o)) {
      part.unfinished = true;
      part.last = o;
    } else if (json.ok() && parse_outcome(*json, o)) {
      part.unfinished = false;
      part.outcomes.push_back(o);
    }
  }
  return part;
}

}  // namespace orrery::calibrate
