#include "live/endpoint_client.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "base/random.h"
#include "base/text.h"
#include "live/answer_reader.h"
#include "live/endpoint_exchange.h"
#include "live/endpoint_text.h"
#include "sim/metrics.h"

namespace orrery {

namespace asio = boost::asio;
using asio::ip::tcp;
using SteadyClock = std::chrono::steady_clock;
using boost::system::error_code;

namespace {

constexpr auto lag_interval = std::chrono::milliseconds(10);
constexpr std::size_t written_ahead = 64;  // requests
constexpr std::int64_t spare_time = 5'000'000;
constexpr std::size_t most_body = 16u << 20;  // of what is not streamed
constexpr std::size_t most_error = 300;       // characters of a server's refusal that are kept

std::chrono::nanoseconds seconds_of(double s) {
  return std::chrono::nanoseconds(static_cast<std::int64_t>(s * 1e9));
}

class Task;

class Client {
 public:
  Client(RequestSource& source, const EndpointOptions& o)
      : options(o), prompts(o.seed, o.vocabulary, options.words ? &*options.words : nullptr), source_(source),
        pace_(io), lag_(io), scrape_(io) {}

  Status prepare();
  Result<EndpointRun> run();
  std::int64_t now() const { return (SteadyClock::now() - start_).count(); }
  SteadyClock::time_point point(std::int64_t ns) const { return start_ + std::chrono::nanoseconds(ns); }
  void ended(Task& task);

  Wires wires;
  asio::io_context& io = wires.io;
  EndpointOptions options;
  PromptMaker prompts;
  EndpointRun report;
  WeightedSamples gaps;

 private:
  Result<std::string> fetch(const std::string& path);
  bool read();
  void read_ahead(std::size_t requests);
  void pace();
  void submit(std::int64_t intended);
  void watch_lag();
  void watch_server();
  void stop_watching();
  bool goes_on() { return !options.keep_going || options.keep_going(ended_); }

  RequestSource& source_;
  asio::steady_timer pace_, lag_, scrape_;
  SteadyClock::time_point start_ = SteadyClock::now();
  // A prompt of 100,000 tokens takes milliseconds to write, so requests are written before they are due.
  struct Written {
    TraceRequest request;
    std::string message;
  };
  std::deque<Written> ahead_;
  Written pending_;
  bool has_pending_ = false;
  std::optional<Error> bad_;
  std::uint64_t open_ = 0, ended_ = 0;
  std::int64_t lag_due_ = 0;
  WeightedSamples lateness_, lags_;
};

class Fetch final : public Exchange {
 public:
  using Done = std::function<void(int status, const std::string& body)>;
  Fetch(Wires& wires, Done done) : Exchange(wires), done_(std::move(done)) {}

 private:
  void on_bytes() override {
    body_ += connection_->reader.take_body();
    if (body_.size() > most_body) {
      drop();
      return done_(0, "the answer does not end");
    }
    if (!connection_->reader.done()) return;
    const int status = connection_->reader.status();
    give_back();
    done_(status, body_);
  }
  void on_failure(const std::string& what, bool) override { done_(0, what); }
  Done done_;
  std::string body_;
};

// One request of the workload, all tries.
class Task final : public Exchange {
 public:
  Task(Client& client, std::size_t record, TraceRequest request, std::string message)
      : Exchange(client.wires), client_(client), timer_(client.io), request_(std::move(request)),
        record_(record), message_(std::move(message)) {}

  void start() {
    record().sent = client_.now();
    const auto give_up = [&](SimDuration d) { return d.ns() > 0 ? record().intended + d.ns() : INT64_MAX; };
    cancels_ = give_up(request_.cancel_after);
    times_out_ = std::min(give_up(request_.timeout),
                          record().intended + seconds_of(client_.options.timeout_s).count());
    attempt();
  }
  EndpointRecord& record() { return client_.report.records[record_]; }

 private:
  void attempt() {
    ++record().tries;
    answer_ = {};
    status_body_.clear();
    heard_ = client_.now();
    guard();
    begin(message_);
  }

  // Ends what takes too long; asked again only when that may be.
  void guard() {
    const std::int64_t stall = heard_ + seconds_of(client_.options.stall_s).count();
    timer_.expires_at(client_.point(std::min({stall, cancels_, times_out_})));
    timer_.async_wait([self = shared_from_this(), this](const error_code& ec) {
      if (ec || over_ || resting_) return;
      const std::int64_t now = client_.now();
      if (out_of_time(now)) return;
      if (now >= heard_ + seconds_of(client_.options.stall_s).count()) {
        ++client_.report.half_open;
        return end(RequestStatus::timed_out, "the stream is half-open: no byte came for too long");
      }
      guard();
    });
  }

  bool out_of_time(std::int64_t now) {
    if (now >= cancels_)
      end(RequestStatus::cancelled, "its client left");
    else if (now >= times_out_)
      end(RequestStatus::timed_out, "took too long");
    return over_;
  }

  void on_bytes() override {
    heard_ = client_.now();
    const HttpReader& reader = connection_->reader;
    if (!reader.has_header()) return;
    const std::string body = connection_->reader.take_body();
    if (reader.status() != 200) {
      if (status_body_.size() < 4096) status_body_ += body;
      if (reader.done()) refused(reader.status(), reader.header("Retry-After"));
      return;
    }
    const bool streamed = reader.header("Content-Type").starts_with("text/event-stream");
    if (!streamed) status_body_ += body;
    if (status_body_.size() > most_body) {
      ++client_.report.malformed;
      return end(RequestStatus::failed, "the answer does not end");
    }
    const int events = streamed ? answer_.feed(body) : 0;
    if (events < 0) return malformed();
    for (int i = 0; i < events; ++i) said(heard_);
    if (!reader.done()) return;
    if (!streamed && !answer_.read_whole(status_body_)) return malformed();
    if (!streamed) said(heard_);
    give_back();
    finish();
  }

  void said(std::int64_t at) {
    EndpointRecord& r = record();
    ++r.events;
    if (r.first < 0)
      r.first = at;
    else
      gaps_.push_back(at - r.last);
    r.last = at;
  }

  void finish() {
    if (!answer_.close()) {
      ++client_.report.cut;
      return end(RequestStatus::failed, answer_.error());
    }
    EndpointRecord& r = record();
    if (answer_.prompt_tokens() >= 0) r.prompt_tokens = answer_.prompt_tokens();
    r.output_tokens = answer_.output_tokens() >= 0 ? answer_.output_tokens() : answer_.events();
    if (answer_.output_tokens() >= 0 && answer_.events() > answer_.output_tokens())
      client_.report.surplus_events += static_cast<std::uint64_t>(answer_.events() - answer_.output_tokens());
    end(r.events > 0 ? RequestStatus::completed : RequestStatus::failed,
        r.events > 0 ? "" : "the answer has no content");
  }

  void malformed() {
    ++client_.report.malformed;
    end(RequestStatus::failed, answer_.error());
  }

  void on_failure(const std::string& what, bool begun) override {
    if (over_) return;
    if (answer_.complete()) return finish();  // all was said; what followed does not count
    if (what.starts_with("malformed")) {
      ++client_.report.malformed;
      return end(RequestStatus::failed, what);
    }
    if (begun) {
      ++client_.report.cut;
      return end(RequestStatus::failed, what);
    }
    ++client_.report.no_connection;
    retry(what, 0);
  }

  void refused(int status, const std::string& after) {
    const std::string what = "HTTP " + std::to_string(status) + ": " + quote(status_body_);
    give_back();
    if (status == 429)
      ++client_.report.refused_429;
    else if (status >= 500)
      ++client_.report.refused_5xx;
    else {
      ++client_.report.other_status;
      return end(status == 400 ? RequestStatus::rejected : RequestStatus::failed, what);
    }
    retry(what, std::min(60.0, std::max(0.0, std::atof(after.c_str()))));
  }

  void retry(const std::string& what, double at_least_s) {
    if (record().tries > client_.options.retries) return end(RequestStatus::failed, what);
    ++client_.report.retried;
    // Spread, so that those refused together do not come back together.
    RandomStream random(client_.options.seed, RandomPurpose::client,
                        request_.index * 64 + static_cast<std::uint64_t>(record().tries));
    double wait_s = client_.options.backoff_s * (1 + 0.25 * random.uniform());
    for (int i = 1; i < record().tries; ++i) wait_s *= 2;
    const std::int64_t until = client_.now() + seconds_of(std::max(wait_s, at_least_s)).count();
    resting_ = true;
    timer_.expires_at(client_.point(std::min({until, cancels_, times_out_})));
    timer_.async_wait([self = shared_from_this(), this](const error_code& ec) {
      if (ec || over_) return;
      resting_ = false;
      if (!out_of_time(client_.now())) attempt();
    });
  }

  void end(RequestStatus status, const std::string& error) {
    if (over_) return;
    over_ = true;
    drop();
    timer_.cancel();
    if (status == RequestStatus::completed)  // what failed is in no measurement
      for (const std::int64_t gap : gaps_) client_.gaps.add(gap);
    record().status = status;
    // Shortened behind that: half a key is one too.
    record().error = without_key(error, client_.options.api_key);
    if (record().error.size() > most_error) record().error.resize(most_error);
    client_.ended(*this);
  }

  Client& client_;
  asio::steady_timer timer_;
  TraceRequest request_;
  std::size_t record_;
  AnswerReader answer_;
  std::string message_, status_body_;
  std::vector<std::int64_t> gaps_;  // between its events
  std::int64_t heard_ = 0, cancels_ = INT64_MAX, times_out_ = INT64_MAX;
  bool over_ = false, resting_ = false;  // resting: between two tries
};

// ------------------------------------------------------------------ the client

Status Client::prepare() {
  error_code ec;
  tcp::resolver resolver(io);
  wires.host = options.url.host;
  wires.addresses = resolver.resolve(options.url.host, options.url.port, ec);
  const auto unreachable = [&](const std::string& why) {
    return make_error(ErrorKind::unavailable, "endpoint " + options.url.text() + ": " + why);
  };
  if (ec) return unreachable(ec.message());
  if (options.url.tls) {
#ifdef ORRERY_TLS
    wires.tls.emplace(asio::ssl::context::tls_client);
    if (options.ca_file.empty())
      wires.tls->set_default_verify_paths(ec);
    else
      wires.tls->load_verify_file(options.ca_file, ec);
    if (ec) return unreachable("certificates: " + ec.message());
    wires.tls->set_verify_mode(asio::ssl::verify_peer);
#else
    return unreachable("this build has no TLS (OpenSSL was not found); use http://");
#endif
  }
  ORRERY_TRY(models, fetch("/v1/models"));
  if (options.model.empty()) options.model = first_model(models);
  if (options.model.empty()) return unreachable("/v1/models names no model; pass --model");
  report.model = options.model;
  report.text_prompts = options.chat || options.text_prompts;
  return ok_status();
}

Result<std::string> Client::fetch(const std::string& path) {
  int status = -1;
  std::string text = "no answer within 10 s";
  std::make_shared<Fetch>(wires, [&](int s, const std::string& body) {
    status = s;
    text = body;
  })->begin(get_message(options, path));
  const auto until = SteadyClock::now() + std::chrono::seconds(10);
  while (status < 0 && SteadyClock::now() < until && goes_on())
    if (io.run_one_for(std::chrono::milliseconds(100)) == 0 && io.stopped()) io.restart();
  io.restart();
  if (status == 200) return text;
  if (!goes_on()) return make_error(ErrorKind::interrupted, "interrupted; nothing was written");
  return make_error(ErrorKind::unavailable, "endpoint " + options.url.text() + ": " + path + ": " +
                                                (status > 0 ? "HTTP " + std::to_string(status) : text));
}

void Client::read_ahead(std::size_t requests) {
  Written w;
  while (!bad_ && ahead_.size() < requests && source_.next(w.request)) {
    if (!w.request.images.empty()) {
      bad_ = invalid_input("request " + std::to_string(w.request.index) +
                               " has images, which are not sent to endpoints yet; leave them out",
                           w.request.where, "images");
      return;
    }
    w.message = completion_message(options, w.request, prompts);
    ahead_.push_back(std::move(w));
  }
}

bool Client::read() {
  read_ahead(1);
  has_pending_ = !ahead_.empty();
  if (has_pending_) {
    pending_ = std::move(ahead_.front());
    ahead_.pop_front();
  }
  return has_pending_;
}

void Client::submit(std::int64_t intended) {
  EndpointRecord record;
  record.request = pending_.request.index;
  record.intended = intended;
  record.prompt_tokens = pending_.request.prompt_tokens;
  report.records.push_back(record);
  report.requests.push_back(pending_.request);
  const auto task = std::make_shared<Task>(*this, report.records.size() - 1, std::move(pending_.request),
                                           std::move(pending_.message));
  read();
  report.most_streams = std::max(report.most_streams, ++open_);
  lateness_.add(std::max<std::int64_t>(0, now() - intended));
  task->start();
}

// Open loop: everything that is due, and then until the next one is.
void Client::pace() {
  while (has_pending_ && pending_.request.arrival.ns() <= now()) submit(pending_.request.arrival.ns());
  if (!has_pending_) {
    if (open_ == 0) stop_watching();
    return;
  }
  // In time to spare, one a turn: streams are read in between.
  const std::int64_t due = pending_.request.arrival.ns();
  const std::size_t before = ahead_.size();
  if (before < written_ahead && due - now() > spare_time) read_ahead(before + 1);
  pace_.expires_at(point(ahead_.size() > before ? now() : due));
  pace_.async_wait([this](const error_code& ec) {
    if (!ec) pace();
  });
}

void Client::ended(Task& task) {
  --open_;
  ++ended_;
  report.duration_s =
      std::max(report.duration_s, static_cast<double>(std::max(task.record().last, std::int64_t{0})) * 1e-9);
  if (options.concurrency > 0 && has_pending_) {
    // Not from inside the end of the one before: its connection is to be free.
    ++open_;
    asio::post(io, [this, at = now()] {
      --open_;
      if (has_pending_) submit(at);
      if (open_ == 0) stop_watching();
    });
    return;
  }
  if (open_ == 0 && !has_pending_) stop_watching();
}

void Client::watch_lag() {
  lag_due_ = now() + std::chrono::nanoseconds(lag_interval).count();
  lag_.expires_after(lag_interval);
  lag_.async_wait([this](const error_code& ec) {
    if (ec) return;
    lags_.add(std::max<std::int64_t>(0, now() - lag_due_));
    if (!goes_on()) {
      report.interrupted = true;
      return io.stop();
    }
    watch_lag();
  });
}

void Client::watch_server() {
  if (options.scrape_s <= 0) return;
  scrape_.expires_after(seconds_of(options.scrape_s));
  scrape_.async_wait([this](const error_code& ec) {
    if (ec) return;
    // One look at a time: a server that answers none is asked no more.
    std::make_shared<Fetch>(wires, [this](int status, const std::string& body) {
      watch_server();
      if (status != 200) return;
      EndpointScrape scrape;
      scrape.at_s = static_cast<double>(now()) * 1e-9;
      read_metrics(body, scrape, report.kv_blocks);
      report.scrapes.push_back(scrape);
    })->begin(get_message(options, "/metrics"));
  });
}

void Client::stop_watching() {
  lag_.cancel();
  scrape_.cancel();
  io.stop();
}

Result<EndpointRun> Client::run() {
  read_ahead(std::max(written_ahead, static_cast<std::size_t>(options.concurrency)));
  read();
  start_ = SteadyClock::now();
  watch_lag();
  watch_server();
  if (options.concurrency > 0) {
    for (std::int64_t i = 0; i < options.concurrency && has_pending_; ++i) submit(0);
    if (open_ == 0) stop_watching();
  } else {
    pace();
  }
  io.run();
  if (bad_) return *bad_;
  if (source_.error() != nullptr) return *source_.error();
  for (EndpointRecord& r : report.records)  // under way when the run was broken off
    if (report.interrupted && r.status == RequestStatus::failed && r.error.empty())
      r.status = RequestStatus::cancelled;
  report.connections = wires.connections;
  report.itl = gaps.distribution();
  report.lateness = lateness_.distribution();
  report.loop_lag = lags_.distribution();
  return std::move(report);
}

}  // namespace

Result<EndpointRun> run_endpoint(RequestSource& source, const EndpointOptions& options) {
  Client client(source, options);
  ORRERY_TRY_STATUS(client.prepare());
  return client.run();
}

}  // namespace orrery
