#include "reports/requests_csv.h"

#include <charconv>

namespace orrery {

namespace {

constexpr std::size_t flush_at = 1u << 16;

void put(std::string& out, std::int64_t value) {
  char digits[24];
  out.append(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
}

// `value` / 10^decimals with all its decimals, exactly.
void put_fixed(std::string& out, std::int64_t value, int decimals) {
  if (value < 0) {
    out += '-';
    value = -value;
  }
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  const auto count = static_cast<int>(end - digits);
  const int whole = count - decimals;
  if (whole > 0) {
    out.append(digits, static_cast<std::size_t>(whole));
  } else {
    out += '0';
  }
  out += '.';
  if (whole < 0) out.append(static_cast<std::size_t>(-whole), '0');
  const int from = whole > 0 ? whole : 0;
  out.append(digits + from, static_cast<std::size_t>(count - from));
}

void put_ms(std::string& out, std::int64_t ns) {
  if (ns >= 0) put_fixed(out, ns, 6);
}

}  // namespace

RequestsCsv::RequestsCsv(AtomicFile file, bool with_itl, bool with_handoffs)
    : file_(std::move(file)), with_itl_(with_itl), with_handoffs_(with_handoffs) {}

Result<RequestsCsv> RequestsCsv::create(const std::string& path, bool with_itl, bool with_handoffs) {
  ORRERY_TRY(file, AtomicFile::create(path));
  RequestsCsv csv(std::move(file), with_itl, with_handoffs);
  csv.buffer_ =
      "request,arrival_s,prompt_tokens,output_tokens,cached_tokens,queue_s,ttft_s,e2e_s,tpot_ms,instance,"
      "preemptions,status";
  if (with_itl) csv.buffer_ += ",itl_p50_ms,itl_p99_ms,itl_max_ms";
  if (with_handoffs)
    csv.buffer_ +=
        ",prefill_instance,prefill_queue_s,prefill_s,transfer_wait_s,transfer_s,decode_queue_s,first_step_s";
  csv.buffer_ += '\n';
  return csv;
}

// Empty where the request did not get so far.
void RequestsCsv::put_handoff(const HandoffTimes& t) {
  std::string& out = buffer_;
  out += ',';
  if (t.apart) put(out, t.prefill_instance.value());
  for (const SimDuration part : {t.queue, t.prefill, t.wait, t.transfer, t.decode_queue, t.first_step}) {
    out += ',';
    if (t.apart) put_fixed(out, part.ns(), 9);
  }
}

void RequestsCsv::on_request(const RequestRecord& r) {
  std::string& out = buffer_;
  const bool served = r.status == RequestStatus::completed;
  // Who gave up: when, and what had come by then.
  const bool gave_up = r.status == RequestStatus::cancelled || r.status == RequestStatus::timed_out;
  put(out, static_cast<std::int64_t>(r.request));
  out += ',';
  put_fixed(out, r.arrival.ns(), 9);
  out += ',';
  put(out, r.prompt_tokens);
  out += ',';
  put(out, r.output_tokens);
  out += ',';
  put(out, r.cached_tokens);
  out += ',';
  if (served || gave_up) put_fixed(out, r.queue.ns(), 9);
  out += ',';
  if (served || (gave_up && r.output_tokens > 0)) put_fixed(out, r.ttft.ns(), 9);
  out += ',';
  if (served || gave_up) put_fixed(out, r.e2e.ns(), 9);
  out += ',';
  if (served) put_ms(out, r.tpot_ns());
  out += ',';
  if (!r.instance.is_none()) put(out, r.instance.value());  // never was at one
  out += ',';
  put(out, r.preemptions);
  out += ',';
  out += to_string(r.status);
  if (with_itl_) {
    out += ',';
    put_ms(out, r.itl_p50);
    out += ',';
    put_ms(out, r.itl_p99);
    out += ',';
    put_ms(out, r.itl_max);
  }
  if (with_handoffs_) put_handoff(r.handoff);
  out += '\n';
  if (out.size() >= flush_at) {
    file_.write(out);
    out.clear();
  }
}

Status RequestsCsv::commit() {
  file_.write(buffer_);
  buffer_.clear();
  return file_.commit();
}

}  // namespace orrery
