// One connection of the load generator: a socket, TLS over it where the URL says so, and the reader of the
// answers that come on it.
#pragma once

#include <array>
#include <boost/asio.hpp>
#include <memory>
#include <string>
#include <utility>

#ifdef ORRERY_TLS
#include <boost/asio/ssl.hpp>
#endif

#include "live/http_reader.h"

namespace orrery {

struct ClientConnection {
  using tcp = boost::asio::ip::tcp;
#ifdef ORRERY_TLS
  using Tls = boost::asio::ssl::stream<tcp::socket&>;
#endif

  explicit ClientConnection(boost::asio::io_context& io) : socket(io) {}

  template <class Handler>
  void write(Handler handler) {
#ifdef ORRERY_TLS
    if (tls) return boost::asio::async_write(*tls, boost::asio::buffer(out), std::move(handler));
#endif
    boost::asio::async_write(socket, boost::asio::buffer(out), std::move(handler));
  }
  template <class Handler>
  void read(Handler handler) {
#ifdef ORRERY_TLS
    if (tls) return tls->async_read_some(boost::asio::buffer(in), std::move(handler));
#endif
    socket.async_read_some(boost::asio::buffer(in), std::move(handler));
  }
  void close() {
    boost::system::error_code ignored;
    socket.close(ignored);
  }

  tcp::socket socket;
#ifdef ORRERY_TLS
  std::unique_ptr<Tls> tls;
#endif
  HttpReader reader{HttpReader::Kind::response};
  std::array<char, 16384> in{};
  std::string out;
  bool used = false;  // it has carried an answer before
  bool writing = false;
};

}  // namespace orrery
