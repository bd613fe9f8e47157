// data: recommendation.json
function charts() {
  const names = data.finalists.map(f => f.label), of = name => data.finalists.map(f => f.interval_90[name]).map(i => i || [null, null, null]);
  const bars = (name, title, color) => ({ y: names, x: of(name).map(i => i[0]), name: title, mode: "markers", type: "scatter", marker: { size: 8, color: color },
    error_x: { type: "data", symmetric: false, array: of(name).map(i => i[2] - i[0]), arrayminus: of(name).map(i => i[0] - i[1]) } });
  const wide = { hovermode: "closest", margin: { l: 20, r: 18, t: 30, b: 44 } }, labels = axis("", { automargin: true, autorange: "reversed" });
  draw("latencies", [bars("ttft_ms.p99", "TTFT p99", palette[0]), bars("tpot_ms.p50", "TPOT p50", palette[1])],
    Object.assign({ xaxis: axis("ms", { type: "log" }), yaxis: labels }, wide));
  draw("chances", [["best_probability", "is best in"], ["meets_probability", "meets the SLO in"]].map(([key, title]) =>
    ({ y: names, x: data.finalists.map(f => 100 * f[key]), name: title, type: "bar", orientation: "h" })),
    Object.assign({ barmode: "group", xaxis: axis("% of the draws", { range: [0, 100] }), yaxis: labels }, wide));
  const most = Math.max(...data.pareto.map(p => p.output_tokens_per_s));
  draw("pareto", [{ x: data.pareto.map(p => p.gpus), y: data.pareto.map(p => p["e2e_ms.mean"]), text: data.pareto.map(p => p.label), mode: "markers", type: "scatter",
    customdata: data.pareto.map(p => p.output_tokens_per_s), hovertemplate: "%{text}<br>%{x} GPUs, %{y:.0f} ms, %{customdata:.0f} output tokens/s<extra></extra>",
    marker: { size: data.pareto.map(p => 8 + 16 * p.output_tokens_per_s / most), opacity: 0.75 } }],
    { hovermode: "closest", xaxis: axis("GPUs"), yaxis: axis("mean end-to-end latency, ms", { type: "log" }) });
  carries("carries-rate", "rate", "offered_requests_per_s", [["ttft_ms", "TTFT"], ["tpot_ms", "TPOT"]], "requests/s offered", "ms");
  carries("carries-instances", "instances", "instances", [["goodput_requests_per_s", "goodput"]], "instances", "requests/s in time");
}
// A curve of the choice; its place goes where none was asked for.
function carries(id, curve, x, values, xtitle, ytitle) {
  const points = (data.curves || []).filter(p => p.curve === curve && !p.says_nothing).sort((a, b) => a[x] - b[x]), place = document.getElementById(id);
  if (place && points.length === 0) return place.remove();
  draw(id, values.map(([key, name]) => ({ x: points.map(p => p[x]), y: points.map(p => p[key]), name: name, mode: "lines+markers", type: "scatter" })),
    { xaxis: axis(xtitle), yaxis: axis(ytitle, { rangemode: "tozero" }), showlegend: true });
}
start();
