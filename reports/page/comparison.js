// data: { measured, predicted: [[time, ttft, tpot], …], scrapes: [[time, running, waiting, kv], …], series, parts }
function cdf(id, column, title) {
  const curve = (rows, name, color) => {
    const v = rows.map(r => r[column]).filter(x => x !== null).sort((a, b) => a - b);
    return { x: v, y: v.map((_, i) => 100 * (i + 1) / v.length), name: name, mode: "lines", line: { shape: "hv", color: color } };
  };
  draw(id, [curve(data.predicted, "predicted", palette[0]), curve(data.measured, "measured", palette[1])],
    { hovermode: "closest", xaxis: axis(title + ", ms", { type: "log" }), yaxis: axis("% of requests", { range: [0, 100] }) });
}
function charts() {
  cdf("cdf-ttft", 1, "TTFT");
  cdf("cdf-tpot", 2, "TPOT");
  const dots = (rows, name, color) => ({ x: rows.map(r => r[0]), y: rows.map(r => r[1]), name: name, mode: "markers", type: "scatter", marker: { size: 4, opacity: 0.7, color: color } });
  draw("time-ttft", [dots(data.predicted, "predicted", palette[0]), dots(data.measured, "measured", palette[1])],
    { hovermode: "closest", xaxis: axis("sent at, s"), yaxis: axis("TTFT, ms", { type: "log" }) });
  const s = data.series, seen = i => ({ x: data.scrapes.map(r => r[0]), y: data.scrapes.map(r => r[i]) });
  const line = (xy, name, color, dash) => Object.assign({ name: name, mode: "lines", line: { width: 1.4, color: color, dash: dash } }, xy);
  draw("time-load", [line({ x: s.t, y: s.running }, "running, predicted", palette[0]), line(seen(1), "running, /metrics", palette[1]),
    line({ x: s.t, y: s.waiting }, "waiting, predicted", palette[0], "dot"), line(seen(2), "waiting, /metrics", palette[1], "dot")],
    { xaxis: axis("s"), yaxis: axis("requests", { rangemode: "tozero" }) });
  const percent = xy => ({ x: xy.x, y: xy.y.map(v => 100 * v) });
  draw("time-kv", [line(percent({ x: s.t, y: s.kv }), "predicted", palette[0]), line(percent(seen(3)), "/metrics", palette[1])],
    { xaxis: axis("s"), yaxis: axis("% of the KV blocks", { rangemode: "tozero" }) });
  const names = ["step time", "host", "queueing", "transfer", "front end"];
  draw("parts", names.map((n, i) => ({ y: data.parts.map(p => p.metric), x: data.parts.map(p => p.parts[i]), name: n, type: "bar", orientation: "h" })),
    { barmode: "relative", hovermode: "closest", xaxis: axis("predicted less measured, ms"), yaxis: axis("", { automargin: true }) });
}
start();
