// What happens to a request's images before the engine's core sees the request: their placeholders are
// expanded, and the images are prepared on the CPU, one request after another.
#pragma once

#include <list>
#include <unordered_map>
#include <vector>

#include "sim/images.h"
#include "sim/request.h"

namespace orrery {

struct ImageCounts {
  std::uint64_t images = 0;  // of all requests that arrived
  std::uint64_t tokens = 0;  // placeholder tokens
  std::uint64_t embeddings = 0;
  std::uint64_t kept = 0;            // images that were still prepared from an earlier request
  std::int64_t prepare_ns = 0;       // CPU time
  std::int64_t prepare_wait_ns = 0;  // requests waited so long for their turn
  std::int64_t send_ns = 0;          // from the API process to the engine's core
};

// Sessions: images that a later prompt repeats stand where they stood.
struct SessionImages {
  std::int64_t tokens = 0;  // of the previous prompt, images included, and its answer
  std::vector<PlacedImage> placed;
};

class ImageFrontEnd {
 public:
  // `block`: tokens that a name of content covers (1 where the engine shares prefixes token by token, else
  // its block size). `servers`: API processes that prepare images side by side.
  ImageFrontEnd(const ImageProcessor& processor, std::int32_t block, std::int32_t servers);

  // The placeholders of the request's images, without offsets. Errors: an image that the model refuses, or
  // more of them than it is told to take.
  Status lay_out(const TraceRequest& trace);
  // Adds the images just laid out to `r`, which holds the text's fields: prompt_tokens grows; hash_ids become
  // names of the whole prompt. `session` may be null; it is brought up to date by the caller. Returns whether
  // the prompt continues the session's.
  bool place(const TraceRequest& trace, const SessionImages* session, Request& r);
  // When the images just placed are prepared and with the engine's core, if their request was submitted at
  // `at`. Calls in order of submission. An image that is kept there is not sent again; others travel beside
  // the next request's preparation (vLLM: ZeroMQ's thread, MsgpackEncoder leaves tensors where they are).
  SimTime prepare(const TraceRequest& trace, SimTime at);
  // When a request without images that was submitted at `at` is taken in.
  SimTime turn_of_text(SimTime at) const;
  // One thread takes requests in and prepares images, and hands outputs on where the client is beside it.
  bool one_loop() const { return free_at_.size() == 1 && processor_.text_waits(); }
  // When that thread has prepared the images of all requests that were submitted before `at`.
  SimTime loop_free(SimTime at) const;
  SimDuration last_work() const { return last_work_; }  // of the request just prepared, without waiting
  SimDuration last_sent() const { return last_sent_; }
  const ImageCounts& counts() const { return counts_; }

 private:
  void name_content(const TraceRequest& trace, Request& r) const;
  bool keep(const PlacedImage& image);

  const ImageProcessor& processor_;
  std::int32_t block_;
  std::vector<PlacedImage> laid_out_;
  std::vector<SimTime> free_at_;  // of each server
  // Prepared images, oldest use first.
  struct Kept {
    std::uint64_t id = 0;
    std::int64_t bytes = 0;
  };
  std::list<Kept> kept_;
  std::unordered_map<std::uint64_t, std::list<Kept>::iterator> kept_at_;  // looked up, never iterated
  std::int64_t kept_bytes_ = 0;
  ImageCounts counts_;
  SimDuration last_work_, last_sent_;
  struct Prepared {
    SimTime submitted, until;
  };
  std::vector<Prepared> prepared_;  // with one loop; both ascend
};

}  // namespace orrery
