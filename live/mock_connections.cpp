#include "live/mock_connections.h"

#include <algorithm>
#include <array>
#include <boost/asio.hpp>
#include <deque>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "live/http_reader.h"

namespace orrery {

namespace asio = boost::asio;
using asio::ip::tcp;

namespace {

constexpr std::uint64_t body_limit = 16u << 20;  // a prompt of a million token ids has 8 MB
// What a client may send behind a request that is not answered yet; then the kernel holds it back.
constexpr std::size_t ahead_limit = 256u << 10;
constexpr auto tick = std::chrono::milliseconds(50);

std::int64_t epoch_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// What the simulation says, on its way to the thread of the sockets.
struct Message {
  enum class Kind : std::uint8_t { first_token, tokens, end } kind;
  RequestId request;
  std::int32_t tokens = 0;
  SimTime at;
};

}  // namespace

// All of it belongs to the sockets' thread but for what `mutex` guards.
struct MockConnections::State {
  struct Connection;

  // An answer on its way.
  struct Answer {
    std::shared_ptr<Connection> to;  // closing when its client has gone
    ApiRequest request;
    ApiAnswer texts;
    SimTime asked, last;  // arrival; the last token
    std::int32_t sent = 0;
    bool begun = false;
  };

  struct Connection : std::enable_shared_from_this<Connection> {
    Connection(State& s, tcp::socket from) : state(s), socket(std::move(from)) {}
    State& state;
    tcp::socket socket;
    HttpReader reader{HttpReader::Kind::request, body_limit};
    std::array<char, 16384> bytes{};
    std::string unsent, sending;
    RequestId request = RequestId::none();  // that the engine has
    bool busy = false, closing = false, keep = true, taking = false, held_back = false;

    ~Connection() { --state.open; }

    void read() {
      socket.async_read_some(asio::buffer(bytes), [self = shared_from_this()](const auto& ec, std::size_t n) {
        if (ec) return self->lost();
        if (!self->reader.feed({self->bytes.data(), n})) {
          ++self->state.bad_requests;
          self->keep = false;
          return self->answer(400, "application/json", api_error(400, self->reader.error()));
        }
        self->go_on();
      });
    }
    void go_on() {
      take();
      held_back = busy && reader.ahead() > ahead_limit;
      if (!held_back && !closing) read();
    }
    // One request after the other; the next one waits for the answer. A loop, for any number may have come at
    // once.
    void take() {
      if (taking) return;
      taking = true;
      while (!busy && !closing && reader.done()) {
        busy = true;
        keep = reader.keeps_alive();
        state.handle(*this);
      }
      taking = false;
    }
    void send(std::string_view text) {
      if (closing) return;
      if (unsent.size() > state.options.unread_limit) {
        ++state.slow;
        return lost();
      }
      unsent += text;
      write();
    }
    void write() {
      if (!sending.empty() || unsent.empty()) return;
      sending.swap(unsent);
      asio::async_write(socket, asio::buffer(sending),
                        [self = shared_from_this()](const auto& ec, std::size_t) {
                          self->sending.clear();
                          if (ec) return self->lost();
                          if (self->unsent.empty() && self->closing) return self->shut();
                          self->write();
                        });
    }
    void done() {
      busy = false;
      if (!keep) {
        closing = true;
        if (sending.empty()) shut();
        return;
      }
      reader.next();
      request = RequestId::none();
      if (held_back && !taking) return go_on();
      take();
    }
    void answer(int status, std::string_view type, const std::string& body) {
      send(http_answer(status, type, body, keep));
      done();
    }
    void cut() {
      busy = false;
      closing = true;
      shut();
    }
    void lost() {
      if (busy && socket.is_open()) {
        ++state.gone;
        if (!request.is_none()) state.inbox.leave(request);
      }
      cut();
    }
    void shut() {
      boost::system::error_code ignored;
      socket.shutdown(tcp::socket::shutdown_both, ignored);
      socket.close(ignored);
    }
  };

  State(const MockServerOptions& o, Config c)
      : options(o), limits(c.limits), clock(*c.clock), inbox(*c.inbox), kv_blocks(c.kv_blocks), acceptor(io),
        accept_timer(io), due_timer(io), stop_timer(io), metrics(std::move(c.metrics)) {}

  void accept() {
    acceptor.async_accept([this](const auto& ec, tcp::socket socket) {
      if (ec == asio::error::operation_aborted || !acceptor.is_open()) return;
      if (ec) {  // no descriptors left: others will end
        accept_timer.expires_after(tick);
        accept_timer.async_wait([this](const auto& stopped) {
          if (!stopped) accept();
        });
        return;
      }
      if (open >= options.most_connections) {  // closed again
        ++refused;
        return accept();
      }
      ++connections;
      ++open;
      boost::system::error_code ignored;
      socket.set_option(tcp::no_delay(true), ignored);
      // What the kernel holds is unread as well.
      socket.set_option(asio::socket_base::send_buffer_size(static_cast<int>(options.unread_limit)), ignored);
      std::make_shared<Connection>(*this, std::move(socket))->read();
      accept();
    });
  }

  void handle(Connection& c) {
    const std::string target = c.reader.target().substr(0, c.reader.target().find('?'));
    const bool chat = target == "/v1/chat/completions";
    if (chat || target == "/v1/completions") {
      if (c.reader.method() == "POST") return complete(c, chat);
      return c.answer(405, "application/json", api_error(405, "expected POST"));
    }
    if (target == "/v1/models")
      return c.answer(200, "application/json",
                      api_models(limits.model, limits.max_model_len, epoch_seconds()));
    if (target == "/health" || target == "/ping") return c.answer(200, "text/plain", "");
    if (target == "/metrics") {
      std::string text;
      {
        const std::lock_guard lock(mutex);
        // Levels are those of the last step that began.
        if (answers.empty())
          std::fill(metrics.engines.begin(), metrics.engines.end(), ServerMetrics::Engine{});
        text = metrics.text(limits.model);
      }
      return c.answer(200, "text/plain; version=0.0.4; charset=utf-8", text);
    }
    c.answer(404, "application/json", api_error(404, "there is no " + target + " here"));
  }

  void complete(Connection& c, bool chat) {
    auto request = read_api_request(c.reader.take_body(), chat, limits);
    if (!request.ok()) {
      ++bad_requests;
      const Error& error = request.errors().front();
      const int status = error.kind == ErrorKind::unavailable ? 404 : 400;
      return c.answer(status, "application/json", api_error(status, error.message));
    }
    const RequestId id = inbox.push(request->asked);
    if (id.is_none()) return c.answer(503, "application/json", api_error(503, "the server is going away"));
    c.request = id;
    ApiAnswer texts(id.value(), *request, limits.model, epoch_seconds());
    request->asked.hash_ids.clear();
    answers.emplace(id.value(), Answer{.to = c.shared_from_this(),
                                       .request = std::move(request).value(),
                                       .texts = std::move(texts),
                                       .asked = clock.now(),
                                       .last = {}});
  }

  // Tokens that have not been sent yet, as one event.
  void send_tokens(Answer& a, std::int32_t count, bool last) {
    if (count <= 0) return;
    a.sent += count;
    if (!a.request.stream || a.to->closing) return;
    std::string text;
    if (!a.begun) {
      a.to->send(http_stream_head(a.to->keep));
      text = a.texts.first_event();
      a.begun = true;
    }
    a.to->send(http_chunk(text + a.texts.event(count, last)));
  }

  void note(Answer& a, std::int32_t count, bool first, SimTime at) {
    const std::lock_guard lock(mutex);
    if (first)
      metrics.ttft.observe((at - a.asked).seconds());
    else if (count > 0)
      metrics.inter_token.observe((at - a.last).seconds());
    metrics.generation_tokens += static_cast<std::uint64_t>(count);
    if (first) {
      metrics.prompt_tokens += static_cast<std::uint64_t>(a.request.asked.prompt_tokens);
      metrics.queried_tokens += static_cast<std::uint64_t>(a.request.asked.prompt_tokens);
    }
    a.last = at;
  }

  void take(const Message& m) {
    const auto found = answers.find(m.request.value());
    if (found == answers.end()) return;
    Answer& a = found->second;
    lateness.add(std::max<std::int64_t>(0, (clock.now() - m.at).ns()));
    if (m.kind == Message::Kind::first_token && a.sent == 0) {
      if (a.request.asked.max_tokens == 1) return;  // its end follows at the same instant
      note(a, 1, true, m.at);
      return send_tokens(a, 1, false);
    }
    if (m.kind == Message::Kind::tokens && a.sent > 0) {
      // The last one comes with the end, and a token that a preemption threw away is not said twice.
      const std::int32_t count = std::min(m.tokens, a.request.asked.max_tokens - 1 - a.sent);
      if (count <= 0) return;
      note(a, count, false, m.at);
      return send_tokens(a, count, false);
    }
    if (m.kind != Message::Kind::end) return;
    end(a, m);
    answers.erase(found);
  }

  void end(Answer& a, const Message& m) {
    Connection* const to = a.to.get();
    if (m.tokens == 0) {
      if (to->closing) {
        const std::lock_guard lock(mutex);
        ++metrics.aborted;
        return;
      }
      // Of a stream that has begun nothing can be taken back: it is cut off, as by a server that dies.
      if (a.begun) return to->cut();
      return to->answer(400, "application/json",
                        api_error(400, "the engine gives no answer to this request"));
    }
    note(a, m.tokens - a.sent, a.sent == 0, m.at);
    send_tokens(a, m.tokens - a.sent, true);
    {
      const std::lock_guard lock(mutex);
      metrics.e2e.observe((m.at - a.asked).seconds());
      ++(to->closing ? metrics.aborted : metrics.finished);
    }
    if (to->closing) return;
    if (a.request.stream) {
      to->send(http_chunk(a.texts.end(m.tokens)) + http_chunk(""));
      to->done();
    } else {
      to->answer(200, "application/json", a.texts.whole(m.tokens));
    }
  }

  // What is due is sent, and the timer set for what is not.
  void drain() {
    {
      const std::lock_guard lock(mutex);
      for (Message& m : incoming) waiting.push_back(m);
      incoming.clear();
    }
    // The order in which they were said is that of their times but for the output path of a step.
    std::stable_sort(waiting.begin(), waiting.end(),
                     [](const Message& a, const Message& b) { return a.at < b.at; });
    while (!waiting.empty() && (waiting.front().at <= clock.now() || over)) {
      take(waiting.front());
      waiting.pop_front();
    }
    if (waiting.empty()) return;
    due_timer.expires_at(clock.point(waiting.front().at));
    due_timer.async_wait([this](const auto& ec) {
      if (!ec) drain();
    });
  }

  void say(Message m) {
    bool first = false;
    {
      const std::lock_guard lock(mutex);
      first = incoming.empty();
      incoming.push_back(m);
    }
    if (first) asio::post(io, [this] { drain(); });
  }

  void watch() {
    stop_timer.expires_after(tick);
    stop_timer.async_wait([this](const auto& ec) {
      if (ec) return;
      if (!options.stop || !options.stop()) return watch();
      boost::system::error_code ignored;
      acceptor.close(ignored);
      inbox.close();
      clock.release();
    });
  }

  MockServerOptions options;
  ApiLimits limits;
  WallClock& clock;
  SocketInbox& inbox;
  std::int64_t kv_blocks;
  std::size_t open = 0;  // connections
  asio::io_context io;
  tcp::acceptor acceptor;
  asio::steady_timer accept_timer, due_timer, stop_timer;
  std::unordered_map<std::uint64_t, Answer> answers;  // by request; never iterated
  std::deque<Message> waiting;
  std::uint64_t connections = 0, bad_requests = 0, gone = 0, slow = 0, refused = 0;
  WeightedSamples lateness;
  bool over = false;
  std::thread thread;

  std::mutex mutex;
  std::vector<Message> incoming;
  ServerMetrics metrics;
};

MockConnections::MockConnections(const MockServerOptions& options, Config config)
    : state_(std::make_unique<State>(options, std::move(config))) {}

MockConnections::~MockConnections() {
  state_->io.stop();
  if (state_->thread.joinable()) state_->thread.join();
}

Result<std::uint16_t> MockConnections::listen() {
  State& s = *state_;
  boost::system::error_code ec;
  const auto failed = [&] {
    return make_error(ErrorKind::unavailable, "cannot listen at " + s.options.host + ":" +
                                                  std::to_string(s.options.port) + ": " + ec.message());
  };
  const asio::ip::address address =
      asio::ip::make_address(s.options.host == "localhost" ? "127.0.0.1" : s.options.host, ec);
  if (ec) return failed();
  const tcp::endpoint endpoint(address, s.options.port);
  s.acceptor.open(endpoint.protocol(), ec);
  if (!ec) s.acceptor.set_option(tcp::acceptor::reuse_address(true), ec);
  if (!ec) s.acceptor.bind(endpoint, ec);
  if (!ec) s.acceptor.listen(asio::socket_base::max_listen_connections, ec);
  if (ec) return failed();
  const std::uint16_t port = s.acceptor.local_endpoint(ec).port();
  s.accept();
  s.watch();
  s.thread = std::thread([&s] { s.io.run(); });
  return port;
}

void MockConnections::finish(MockServerReport& report) {
  State& s = *state_;
  if (s.thread.joinable()) {
    // What was said last is sent, and then nothing keeps the thread.
    asio::post(s.io, [&s] {
      s.over = true;
      s.drain();
      s.stop_timer.cancel();
      boost::system::error_code ignored;
      s.acceptor.close(ignored);
      s.stop_timer.expires_after(tick);  // for clients to take it
      s.stop_timer.async_wait([&s](const auto&) { s.io.stop(); });
    });
    s.thread.join();
  }
  report.connections = s.connections;
  report.bad_requests = s.bad_requests;
  report.gone = s.gone;
  report.slow = s.slow;
  report.refused_connections = s.refused;
  report.token_lateness = s.lateness.distribution();
}

void MockConnections::on_first_token(RequestId request, SimTime at) {
  state_->say({Message::Kind::first_token, request, 1, at});
}
void MockConnections::on_tokens(RequestId request, std::int32_t count, SimTime at) {
  state_->say({Message::Kind::tokens, request, count, at});
}
void MockConnections::on_end(RequestId request, std::int32_t tokens, SimTime at) {
  state_->say({Message::Kind::end, request, tokens, at});
}

void MockConnections::on_levels(const StepRecord& step) {
  const std::lock_guard lock(state_->mutex);
  const std::size_t i = step.instance.value();
  if (i >= state_->metrics.engines.size()) return;
  state_->metrics.engines[i] = {
      .running = step.running,
      .waiting = step.waiting,
      .kv_usage = 1 - static_cast<double>(step.free_blocks) /
                          static_cast<double>(std::max<std::int64_t>(1, state_->kv_blocks))};
}

void MockConnections::on_preempted() {
  const std::lock_guard lock(state_->mutex);
  ++state_->metrics.preemptions;
}

void MockConnections::on_admitted(std::int64_t cached_tokens) {
  const std::lock_guard lock(state_->mutex);
  state_->metrics.hit_tokens += static_cast<std::uint64_t>(cached_tokens);
}

}  // namespace orrery
