// data: { groups: [name], quantities: { name: [[group, measured, predicted, batch, context, rate, id], …] }, coverage: […] }
const pick = (rows, g, x, y, text) => ({ x: rows.map(x), y: rows.map(y), text: rows.map(text), name: data.groups[g], legendgroup: g, mode: "markers", type: "scatter",
  marker: { size: 5, opacity: 0.6, color: palette[g % palette.length], symbol: Math.floor(g / palette.length) } });
function scatter(id, rows, x, y, hover, extra, more = []) {
  const present = [...new Set(rows.map(r => r[0]))].sort((a, b) => a - b);
  draw(id, present.map(g => Object.assign(pick(rows.filter(r => r[0] === g), g, x, y, r => r[6]), { hovertemplate: "%{text}<br>" + hover + "<extra>" + data.groups[g] + "</extra>" })).concat(more),
    Object.assign({ hovermode: "closest", legend: { orientation: "v" } }, extra));
}
function against(name, rows) {
  const all = rows.flatMap(r => [r[1], r[2]]), low = Math.min(...all), high = Math.max(...all);
  scatter("against-" + name, rows, r => r[1], r => r[2], "measured %{x:.4g}, predicted %{y:.4g}",
    { xaxis: axis(name + ", measured", { type: "log" }), yaxis: axis(name + ", predicted", { type: "log" }) },
    [{ x: [low, high], y: [low, high], mode: "lines", name: "equal", line: { color: color("--soft"), width: 1 } }]);
}
function residuals(name, rows, key, title, column) {
  const given = rows.filter(r => r[column] > 0);
  scatter("over-" + key + "-" + name, given, r => r[column], r => r[2] / r[1], title + " %{x:.4g}: predicted ÷ measured %{y:.3f}",
    { xaxis: axis(title, { type: "log" }), yaxis: axis(name + ", predicted ÷ measured", { type: "log" }) });
}
function charts() {
  for (const [name, rows] of Object.entries(data.quantities)) {
    against(name, rows);
    residuals(name, rows, "batch", "requests at once", 3);
    residuals(name, rows, "context", "tokens at the end of a request", 4);
    residuals(name, rows, "rate", "requests per second", 5);
  }
  const c = data.coverage;
  draw("coverage", [{ x: c.map(k => k.name), y: c.map(k => 100 * k.share), type: "scatter", mode: "markers", name: "in the 90 % interval (bars: Wilson's 95 %)", marker: { size: 9 },
      error_y: { type: "data", symmetric: false, array: c.map(k => 100 * (k.high - k.share)), arrayminus: c.map(k => 100 * (k.share - k.low)) } },
    { x: c.map(k => k.name), y: c.map(k => 100 * k.prices), type: "scatter", mode: "markers", name: "in that of prices and host times alone", marker: { size: 7, symbol: "x" } },
    { x: c.map(k => k.name), y: c.map(k => 100 * k.half_width), type: "bar", yaxis: "y2", name: "median half-width, % of the prediction (right)", opacity: 0.3 }],
    { xaxis: axis("", { automargin: true }), yaxis: axis("share of figures, %", { range: [0, 105] }),
      yaxis2: axis("half-width, %", { overlaying: "y", side: "right", rangemode: "tozero", showgrid: false }),
      shapes: [85, 95].map(y => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: color("--soft"), dash: "dot" } })) });
}
start();
