#include "costmodel/front_end.h"

#include "costmodel/profile_reader.h"

namespace orrery {

FrontEndCosts read_front_end(const Yaml& node) {
  FrontEndCosts f;
  f.processes = node.require("processes").integer(1, 1, 1024);
  f.tokenizer_beside_loop = node.require("tokenizer_beside_loop").boolean(false);
  f.detokenizer_apart = node.require("detokenizer_apart").boolean(false);
  f.request = read_figure<Seconds>(node.require("request"), true);
  f.tokenize = read_figure<Seconds>(node.require("tokenize"), true);
  f.read_token_id = read_figure<Seconds>(node.require("read_token_id"), true);
  f.message = read_figure<Seconds>(node.require("message"), true);
  f.detokenize = read_figure<Seconds>(node.require("detokenize"), true);
  f.event = read_figure<Seconds>(node.require("event"), true);
  return f;
}

}  // namespace orrery
