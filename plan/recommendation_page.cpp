// recommendation.html: recommendation.md as a page of its own, with charts of recommendation.json.
#include <sstream>

#include "plan/recommendation.h"
#include "reports/page_parts.h"
#include "reports/report_page.h"

namespace orrery {

namespace {

// Charts that stand below a heading which begins so.
struct Placed {
  const char* heading;
  const char* id;
  const char* label;
};
constexpr Placed placed[] = {
    {"The last", "latencies", "Latencies of the finalists with 90 % intervals"},
    {"The last", "chances", "In how many draws a finalist is best and meets the SLO"},
    {"Fewest GPUs", "pareto", "GPUs against latency; larger marks answer more tokens a second"},
    {"How far", "carries-rate", "Latency of the choice against the rate that is offered"},
    {"How far", "carries-instances", "Goodput of the choice against its instances"},
};

// `code` and **strong**.
std::string inline_html(const std::string& text) {
  std::string out;
  bool code = false, strong = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '`') {
      out += code ? "</code>" : "<code>";
      code = !code;
    } else if (!code && text.compare(i, 2, "**") == 0) {
      out += strong ? "</strong>" : "<strong>";
      strong = !strong;
      ++i;
    } else {
      out += escape_html(text.substr(i, 1));
    }
  }
  return out + (code ? "</code>" : "") + (strong ? "</strong>" : "");
}

std::string row_html(const std::string& line, const char* cell) {
  std::string out = "<tr>", text;
  std::istringstream cells(line.substr(1, line.size() - 2));
  while (std::getline(cells, text, '|'))
    out += std::string("<") + cell + ">" + inline_html(text) + "</" + cell + ">";
  return out + "</tr>\n";
}

// What recommendation_markdown() writes of Markdown: headings, tables, lists, fenced code, paragraphs.
class Page {
 public:
  std::string of(const std::string& markdown) {
    std::istringstream lines(markdown);
    for (std::string line; std::getline(lines, line);) take(line);
    close();
    return out_;
  }

 private:
  enum class In { nothing, paragraph, table, list, code };

  void take(const std::string& line) {
    if (line.starts_with("```")) {
      const bool ends = in_ == In::code;
      close();
      if (!ends) open(In::code, "<pre>");
    } else if (in_ == In::code) {
      out_ += escape_html(line) + "\n";
    } else if (line.empty()) {
      close();
    } else if (line.starts_with("#")) {
      heading(line);
    } else if (line.starts_with("|")) {
      const bool first = in_ != In::table;
      if (first) open(In::table, "<div class=\"scroll\"><table>\n");
      if (!line.starts_with("|---")) out_ += row_html(line, first ? "th" : "td");
    } else if (line.starts_with("- ")) {
      if (in_ != In::list) open(In::list, "<ul>\n");
      out_ += "<li>" + inline_html(line.substr(2)) + "</li>\n";
    } else {
      if (in_ != In::paragraph) open(In::paragraph, "<p>");
      out_ += inline_html(line) + "\n";
    }
  }

  void heading(const std::string& line) {
    close();
    const std::size_t level = line.find_first_not_of('#');
    const std::string text = line.substr(level + 1), tag = "h" + std::to_string(level);
    out_ += "<" + tag + ">" + inline_html(text) + "</" + tag + ">\n";
    for (const Placed& chart : placed) {
      if (text.starts_with(chart.heading))
        out_ += std::string("<div class=\"chart\" id=\"") + chart.id + "\" role=\"img\" aria-label=\"" +
                chart.label + "\"></div>\n";
    }
  }

  void open(In what, const char* tag) {
    close();
    in_ = what;
    out_ += tag;
  }
  void close() {
    static constexpr const char* ends[] = {"", "</p>\n", "</table></div>\n", "</ul>\n", "</pre>\n"};
    out_ += ends[static_cast<std::size_t>(in_)];
    in_ = In::nothing;
  }

  std::string out_;
  In in_ = In::nothing;
};

}  // namespace

Result<std::string> recommendation_page(const RecommendationInput& input) {
  ORRERY_TRY(scripts, page_scripts(recommendation_json(input)));
  return report_head + ("<main>\n" + Page().of(recommendation_markdown(input)) + "</main>\n") + scripts +
         plan_tail;
}

}  // namespace orrery
