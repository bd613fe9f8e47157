#include "sim/image_front_end.h"

#include <algorithm>

#include "base/digest.h"

namespace orrery {

namespace {

// Kinds of names, so that no two kinds of tokens are ever equal.
enum class Named : std::uint64_t { hash_id = 1, image = 2, own = 3 };

std::uint64_t own_image(std::uint64_t request, std::size_t index) {
  Digest d;
  d.add(static_cast<std::uint64_t>(Named::own));
  d.add(request);
  d.add(static_cast<std::uint64_t>(index) + 1);
  return d.value();
}

}  // namespace

ImageFrontEnd::ImageFrontEnd(const ImageProcessor& processor, std::int32_t block, std::int32_t servers)
    : processor_(processor), block_(block),
      free_at_(static_cast<std::size_t>(std::max(1, servers)), SimTime(0)) {}

Status ImageFrontEnd::lay_out(const TraceRequest& trace) {
  laid_out_.clear();
  if (static_cast<std::int64_t>(trace.images.size()) > processor_.image_limit()) {
    return invalid_input("has " + std::to_string(trace.images.size()) +
                         " images, and the engine is told to take at most " +
                         std::to_string(processor_.image_limit()) + " (limit_mm_per_prompt)");
  }
  for (std::size_t i = 0; i < trace.images.size(); ++i) {
    const ImageSize& image = trace.images[i];
    if (image.position > trace.prompt_tokens) {
      return invalid_input("images[" + std::to_string(i) + "].position (" + std::to_string(image.position) +
                           ") is behind the text, which has " + std::to_string(trace.prompt_tokens) +
                           " tokens");
    }
    ORRERY_TRY(placed, processor_.lay_out(image));
    placed.id = image.id != 0 ? image.id : own_image(trace.index, i);
    laid_out_.push_back(placed);
  }
  return ok_status();
}

bool ImageFrontEnd::place(const TraceRequest& trace, const SessionImages* session, Request& r) {
  std::int64_t added = 0;
  for (const PlacedImage& image : laid_out_) {
    added += image.tokens;
    counts_.embeddings += static_cast<std::uint64_t>(image.embeddings);
  }
  counts_.images += laid_out_.size();
  counts_.tokens += static_cast<std::uint64_t>(added);
  r.prompt_tokens = static_cast<std::int32_t>(trace.prompt_tokens + added);

  // A session goes on when the prompt holds the earlier images first and is longer than all that came before.
  const std::size_t known = session != nullptr ? session->placed.size() : 0;
  bool continues = session != nullptr && laid_out_.size() >= known;
  std::int64_t fresh = 0;
  for (std::size_t i = 0; continues && i < laid_out_.size(); ++i) {
    if (i < known)
      continues = laid_out_[i].tokens == session->placed[i].tokens;
    else
      fresh += laid_out_[i].tokens;
  }
  continues = continues && r.prompt_tokens >= session->tokens + fresh && r.prompt_tokens > session->tokens;

  std::int64_t before = 0;  // tokens of images placed so far
  std::vector<std::size_t> order(laid_out_.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  if (!continues) {
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return trace.images[a].position < trace.images[b].position;
    });
  }
  r.images.clear();
  for (const std::size_t i : order) {
    PlacedImage image = laid_out_[i];
    if (continues && i < known) {
      image.offset = session->placed[i].offset;
      image.id = laid_out_[i].id = session->placed[i].id;
    } else if (continues) {
      image.offset = static_cast<std::int32_t>(session->tokens + before);
      before += image.tokens;
    } else {
      image.offset = static_cast<std::int32_t>(trace.images[i].position + before);
      before += image.tokens;
    }
    r.images.push_back(image);
  }
  if (trace.session == 0 || !trace.hash_ids.empty()) name_content(trace, r);
  return continues;
}

// A prompt of text and images by names that other prompts can have too: text by its hash ids, an image by its
// id. Nothing is named when neither says anything.
void ImageFrontEnd::name_content(const TraceRequest& trace, Request& r) const {
  const bool images_named = std::any_of(trace.images.begin(), trace.images.end(),
                                        [](const ImageSize& image) { return image.id != 0; });
  if (trace.hash_ids.empty() && !images_named) return;
  std::vector<std::uint64_t> names;
  names.reserve(static_cast<std::size_t>((r.prompt_tokens + block_ - 1) / block_));
  auto image = r.images.begin();
  std::int64_t text = 0;  // text tokens passed
  for (std::int64_t at = 0; at < r.prompt_tokens;) {
    const std::int64_t end = std::min<std::int64_t>(at + block_, r.prompt_tokens);
    Digest d;
    while (at < end) {
      while (image != r.images.end() && at >= image->end()) ++image;
      const bool in_image = image != r.images.end() && at >= image->offset;
      std::int64_t until = end;
      if (in_image) {
        until = std::min<std::int64_t>(until, image->end());
        d.add(static_cast<std::uint64_t>(Named::image));
        d.add(image->id);
        d.add(at - image->offset);
      } else {
        if (image != r.images.end()) until = std::min<std::int64_t>(until, image->offset);
        const bool named = !trace.hash_ids.empty();
        if (named) {
          const std::int64_t hash = text / trace.hash_block_size;
          until = std::min(until, at + (hash + 1) * trace.hash_block_size - text);
          d.add(static_cast<std::uint64_t>(Named::hash_id));
          d.add(trace.hash_ids[static_cast<std::size_t>(hash)]);
          d.add(std::int64_t{trace.hash_block_size});
          d.add(text % trace.hash_block_size);
        } else {
          d.add(static_cast<std::uint64_t>(Named::own));
          d.add(trace.index);
          d.add(text);
        }
        text += until - at;
      }
      d.add(until - at);
      at = until;
    }
    names.push_back(d.value());
  }
  r.hash_ids = std::move(names);
  r.hash_block_size = block_;
}

SimTime ImageFrontEnd::prepare(const TraceRequest& trace, SimTime at) {
  SimDuration work(0);
  last_sent_ = SimDuration(0);
  for (std::size_t i = 0; i < laid_out_.size(); ++i) {
    work += processor_.handle_time();
    const PlacedImage& image = laid_out_[i];
    if (keep(image)) {
      ++counts_.kept;
    } else {
      work += processor_.prepare_time(trace.images[i], image);
      last_sent_ += processor_.send_time(image);
    }
  }
  SimTime& server = *std::min_element(free_at_.begin(), free_at_.end());
  const SimTime begin = later(at, server);
  server = begin + work;
  last_work_ = work;
  if (one_loop() && work.ns() > 0) prepared_.push_back({at, server});
  counts_.prepare_ns += work.ns();
  counts_.prepare_wait_ns += (begin - at).ns();
  counts_.send_ns += last_sent_.ns();
  return server + last_sent_;
}

SimTime ImageFrontEnd::loop_free(SimTime at) const {
  const auto behind = std::lower_bound(prepared_.begin(), prepared_.end(), at,
                                       [](const Prepared& p, SimTime t) { return p.submitted < t; });
  return behind == prepared_.begin() ? SimTime(0) : std::prev(behind)->until;
}

SimTime ImageFrontEnd::turn_of_text(SimTime at) const {
  if (!processor_.text_waits()) return at;
  return later(at, *std::min_element(free_at_.begin(), free_at_.end()));
}

// Whether the image is there already; it is afterwards, if it fits at all.
bool ImageFrontEnd::keep(const PlacedImage& image) {
  const auto found = kept_at_.find(image.id);
  if (found != kept_at_.end()) {
    kept_.splice(kept_.end(), kept_, found->second);
    return true;
  }
  const std::int64_t bytes = processor_.prepared_bytes(image);
  if (bytes > processor_.cache_bytes()) return false;
  while (kept_bytes_ + bytes > processor_.cache_bytes()) {
    kept_bytes_ -= kept_.front().bytes;
    kept_at_.erase(kept_.front().id);
    kept_.pop_front();
  }
  kept_.push_back({image.id, bytes});
  kept_at_[image.id] = std::prev(kept_.end());
  kept_bytes_ += bytes;
  return false;
}

}  // namespace orrery
