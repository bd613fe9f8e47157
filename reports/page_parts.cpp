#include "reports/page_parts.h"

#include <zlib.h>

#include <filesystem>

#include "base/files.h"

namespace orrery {

std::string escape_html(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

namespace {

// JSON inside a script element: "</" and "<!--" must not end or open anything.
std::string script_json(const Json& json) {
  std::string out;
  for (const char c : json.dump(-1, ' ', false, Json::error_handler_t::replace)) {
    if (c == '<')
      out += "\\u003c";
    else
      out += c;
  }
  return out;
}

Result<std::string> gzip(const std::string& text) {
  z_stream z{};
  if (deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
    return make_error(ErrorKind::internal, "zlib cannot be initialised");
  }
  std::string out(deflateBound(&z, text.size()), '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  z.avail_in = static_cast<uInt>(text.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  const int rc = deflate(&z, Z_FINISH);
  out.resize(z.total_out);
  deflateEnd(&z);
  if (rc != Z_STREAM_END)
    return make_error(ErrorKind::internal, "zlib could not compress the charts library");
  return out;
}

std::string base64(const std::string& bytes) {
  static constexpr char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve(bytes.size() * 4 / 3 + 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const auto at = [&](std::size_t k) {
      return k < bytes.size() ? static_cast<unsigned char>(bytes[k]) : 0u;
    };
    const unsigned v = (at(i) << 16) | (at(i + 1) << 8) | at(i + 2);
    out += digits[v >> 18];
    out += digits[(v >> 12) & 63];
    out += i + 1 < bytes.size() ? digits[(v >> 6) & 63] : '=';
    out += i + 2 < bytes.size() ? digits[v & 63] : '=';
  }
  return out;
}

}  // namespace

std::string charts_library() {
  const std::string path = data_directory() + "/third_party/plotly.min.js";
  std::error_code ec;
  return std::filesystem::exists(path, ec) ? path : std::string();
}

Result<std::string> page_scripts(const Json& data) {
  ORRERY_TRY(library, read_text_file(charts_library()));
  ORRERY_TRY(packed, gzip(library));
  return "<script type=\"application/json\" id=\"data\">" + script_json(data) +
         "</script>\n<script type=\"text/plain\" id=\"plotly\">\n" + base64(packed) + "\n</script>";
}

}  // namespace orrery
