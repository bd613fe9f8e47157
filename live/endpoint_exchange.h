// One message to a server and its answer. Included by the load generator alone: what it needs takes long to
// compile.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "live/client_connection.h"

namespace orrery {

// What all exchanges of a client share.
struct Wires {
  boost::asio::io_context io;
  std::string host;  // whose certificate it must be
  boost::asio::ip::tcp::resolver::results_type addresses;
#ifdef ORRERY_TLS
  std::optional<boost::asio::ssl::context> tls;
#endif
  std::vector<std::shared_ptr<ClientConnection>> idle;
  std::uint64_t connections = 0;  // that were opened
};

// On a connection that was kept, or a new one.
class Exchange : public std::enable_shared_from_this<Exchange> {
 public:
  explicit Exchange(Wires& wires) : wires_(wires) {}
  virtual ~Exchange() = default;
  void begin(std::string message);

 protected:
  using error_code = boost::system::error_code;
  virtual void on_bytes() = 0;  // the reader has more; sees done() itself
  // Of the connection, which is dropped by now; `begun`: some of the answer had come.
  virtual void on_failure(const std::string& what, bool begun) = 0;
  void give_back();
  void drop();

  std::shared_ptr<ClientConnection> connection_;

 private:
  void connect();
  void secure();
  void send();
  void read();
  void fail(const std::string& what);
  Wires& wires_;
  std::string message_;
};

inline void Exchange::begin(std::string message) {
  message_ = std::move(message);
  if (!wires_.idle.empty()) {
    connection_ = std::move(wires_.idle.back());
    wires_.idle.pop_back();
    return send();
  }
  connect();
}

inline void Exchange::connect() {
  connection_ = std::make_shared<ClientConnection>(wires_.io);
  ++wires_.connections;
  boost::asio::async_connect(connection_->socket, wires_.addresses,
                             [self = shared_from_this(), c = connection_](
                                 const error_code& ec, const boost::asio::ip::tcp::endpoint&) {
                               if (self->connection_ != c) return;
                               if (ec) return self->fail(ec.message());
                               error_code ignored;
                               c->socket.set_option(boost::asio::ip::tcp::no_delay(true), ignored);
                               self->secure();
                             });
}

inline void Exchange::secure() {
#ifdef ORRERY_TLS
  if (wires_.tls) {
    ClientConnection& c = *connection_;
    c.tls = std::make_unique<ClientConnection::Tls>(c.socket, *wires_.tls);
    c.tls->set_verify_callback(boost::asio::ssl::host_name_verification(wires_.host));
    error_code no_address;  // an address is no server name (RFC 6066)
    boost::asio::ip::make_address(wires_.host, no_address);
    if (no_address) SSL_set_tlsext_host_name(c.tls->native_handle(), wires_.host.c_str());
    c.tls->async_handshake(boost::asio::ssl::stream_base::client,
                           [self = shared_from_this(), held = connection_](const error_code& ec) {
                             if (self->connection_ != held) return;
                             if (ec) return self->fail("TLS: " + ec.message());
                             self->send();
                           });
    return;
  }
#endif
  send();
}

inline void Exchange::send() {
  connection_->out = message_;
  connection_->writing = true;
  connection_->write([self = shared_from_this(), c = connection_](const error_code& ec, std::size_t) {
    c->writing = false;
    if (self->connection_ == c && ec) self->fail(ec.message());
  });
  read();  // a server may refuse before it has read all
}

inline void Exchange::read() {
  connection_->read([self = shared_from_this(), c = connection_](const error_code& ec, std::size_t n) {
    if (self->connection_ != c) return;
    if (ec) {
      const bool whole = c->reader.started() && c->reader.close() && c->reader.done();
      if (!whole)
        return self->fail(ec == boost::asio::error::eof ? "the server closed the connection" : ec.message());
      self->on_bytes();
      return self->drop();
    }
    if (!c->reader.feed({c->in.data(), n})) return self->fail("malformed HTTP: " + c->reader.error());
    self->on_bytes();
    if (self->connection_ == c && !c->reader.done()) self->read();
  });
}

inline void Exchange::fail(const std::string& what) {
  const bool begun = connection_->reader.started(), stale = connection_->used && !begun;
  drop();
  if (stale) return connect();  // the server had closed a connection that was kept
  on_failure(what, begun);
}

inline void Exchange::give_back() {
  if (!connection_) return;
  const HttpReader& reader = connection_->reader;
  if (reader.done() && reader.keeps_alive() && !connection_->writing && connection_->socket.is_open()) {
    connection_->reader.next();
    connection_->used = true;
    wires_.idle.push_back(std::move(connection_));
    connection_.reset();
    return;
  }
  drop();
}

inline void Exchange::drop() {
  if (connection_) connection_->close();
  connection_.reset();
}

}  // namespace orrery
