function charts() {
  const percent = Array.from({ length: 101 }, (_, i) => i);
  for (const [id, keys] of [["chart-first", ["ttft", "e2e"]], ["chart-token", ["tpot", "itl"]]]) {
    const names = { ttft: "TTFT", e2e: "E2E", tpot: "TPOT", itl: "ITL" };
    draw(id, keys.filter(k => data.curves[k].length).map(k => ({ x: percent, y: data.curves[k], name: names[k], mode: "lines" })),
      { xaxis: axis("percentile of requests (ITL: of gaps)"), yaxis: axis("ms", { type: "log" }) });
  }
  const s = data.series, t = s.t;
  const line = (key, name, more) => Object.assign({ x: t, y: s[key], name: name, mode: "lines", line: { width: 1.4 } }, more);
  draw("chart-load", [line("arrivals", "arrivals/s"), line("finished", "finished/s")], { xaxis: axis("simulated time, s"), yaxis: axis("requests per second", { rangemode: "tozero" }) });
  draw("chart-queue", [line("running", "running", { stackgroup: "a" }), line("waiting", "waiting", { stackgroup: "a" })], { xaxis: axis("simulated time, s"), yaxis: axis("requests, all instances") });
  draw("chart-tokens", [line("prefill_tokens", "prefill tokens/s"), line("decode_tokens", "decode tokens/s")], { xaxis: axis("simulated time, s"), yaxis: axis("tokens per second", { rangemode: "tozero" }) });
  draw("chart-kv", [line("kv", "KV blocks held, %"), line("preemptions", "preemptions/s", { yaxis: "y2" })],
    { margin: { l: 64, r: 64, t: 30, b: 44 }, xaxis: axis("simulated time, s"), yaxis: axis("% of the pool", { rangemode: "tozero" }), yaxis2: { overlaying: "y", side: "right", rangemode: "tozero", showgrid: false, title: { text: "preemptions/s" } } });
  const named = new Set(), first = c => !named.has(c) && Boolean(named.add(c));  // one entry of the legend a class
  draw("chart-ops", data.breakdowns.flatMap(b => b.ops.map(o => ({ x: [o.share], y: [b.name], name: o.class, legendgroup: o.class, type: "bar", orientation: "h",
      marker: { color: palette[o.color % palette.length], line: { width: 0.5, color: color("--paper") } }, showlegend: first(o.class),
      hovertemplate: o.name + ": %{x:.1f} %, " + o.us.toFixed(1) + " µs, bound by " + o.bound + "<extra></extra>" }))),
    { barmode: "stack", hovermode: "closest", xaxis: axis("share of device time, %", { range: [0, 100] }), yaxis: axis("", { automargin: true }), legend: { orientation: "h", y: 1.3 } });
  draw("chart-memory", data.memory.map(m => ({ x: [m.gib], y: ["one GPU"], name: m.name, type: "bar", orientation: "h", hovertemplate: m.name + ": %{x:.2f} GiB<extra></extra>" })),
    { barmode: "stack", hovermode: "closest", xaxis: axis("GiB"), yaxis: axis("", { automargin: true }), legend: { orientation: "h", y: 1.3 } });
}
start();
