// A server that says what a test wants, byte by byte, and a client that does not say anything: plain blocking
// sockets, so that no code under test is on both sides.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

class ScriptedServer {
 public:
  // `say`: called for each request in order of arrival with all of it and its number from 0 (−1: no POST);
  // returns the bytes, behind which the connection stays open where `keep` is set.
  struct Said {
    std::string bytes;
    bool keep = true;
  };
  using Script = std::function<Said(const std::string& message, int post)>;

  explicit ScriptedServer(Script script) : script_(std::move(script)) {
    listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    ::bind(listener_, reinterpret_cast<sockaddr*>(&address), size);
    ::listen(listener_, 64);
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { accept(); });
  }
  ~ScriptedServer() {
    ::shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    ::close(listener_);
    {
      const std::lock_guard lock(mutex_);
      for (const int c : open_) ::shutdown(c, SHUT_RDWR);
    }
    for (std::thread& t : threads_) t.join();
  }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  int posts() const { return posts_; }
  std::string heads() {
    const std::lock_guard lock(mutex_);
    return heads_;
  }

 private:
  void accept() {
    for (;;) {
      const int c = ::accept(listener_, nullptr, nullptr);
      if (c < 0) return;
      const std::lock_guard lock(mutex_);
      open_.push_back(c);
      threads_.emplace_back([this, c] { serve(c); });
    }
  }
  void serve(int c) {
    std::string got;
    char bytes[4096];
    for (;;) {
      const std::size_t head = got.find("\r\n\r\n");
      std::size_t body = 0;
      if (head != std::string::npos) {
        const std::size_t at = got.find("Content-Length: ");
        if (at != std::string::npos && at < head) body = std::stoul(got.substr(at + 16));
      }
      if (head == std::string::npos || got.size() < head + 4 + body) {
        const ssize_t n = ::recv(c, bytes, sizeof bytes, 0);
        if (n <= 0) break;
        got.append(bytes, static_cast<std::size_t>(n));
        continue;
      }
      {
        const std::lock_guard lock(mutex_);
        heads_ += got.substr(0, head + 4);
      }
      const bool post = got.starts_with("POST");
      const Said said = script_(got.substr(0, head + 4 + body), post ? posts_++ : -1);
      got.erase(0, head + 4 + body);
      ::send(c, said.bytes.data(), said.bytes.size(), MSG_NOSIGNAL);
      if (!said.keep) break;
    }
    ::shutdown(c, SHUT_RDWR);
    const std::lock_guard lock(mutex_);
    std::erase(open_, c);
    ::close(c);
  }

  Script script_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<int> posts_{0};
  std::mutex mutex_;
  std::string heads_;
  std::vector<int> open_;
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

// A connection that sends `bytes`. `small_buffer`: it can take hardly anything that it does not read.
inline int connect_and_send(int port, const std::string& bytes, bool small_buffer = false) {
  const int c = ::socket(AF_INET, SOCK_STREAM, 0);
  if (small_buffer) {
    const int size = 2048;
    ::setsockopt(c, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  if (::connect(c, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return -1;
  ::send(c, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  return c;
}

// All that comes until the server closes.
inline std::string read_all(int c) {
  std::string got;
  char bytes[4096];
  for (ssize_t n = 0; (n = ::recv(c, bytes, sizeof bytes, 0)) > 0;)
    got.append(bytes, static_cast<std::size_t>(n));
  ::close(c);
  return got;
}
