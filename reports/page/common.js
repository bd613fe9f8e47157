"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const style = getComputedStyle(document.documentElement), color = n => style.getPropertyValue(n).trim();
const palette = ["#2563a8", "#d9722b", "#2a9d6f", "#8a4fbf", "#c0392b", "#7a8794", "#c9a227", "#3aa6b9"];
function layout(extra) {
  return Object.assign({ margin: { l: 64, r: 18, t: 30, b: 44 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: color("--ink"), size: 12.5 }, colorway: palette, hovermode: "x unified", legend: { orientation: "h", y: 1.14 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: color("--soft"), activecolor: color("--accent") } }, extra);
}
const axis = (title, extra) => Object.assign({ title: { text: title }, gridcolor: color("--line"), zerolinecolor: color("--line") }, extra);
function draw(id, traces, extra) {
  const place = document.getElementById(id);
  if (place) Plotly.newPlot(place, traces, layout(extra), { displaylogo: false, responsive: true });
}
async function start() {
  try {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent.trim()), c => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.appendChild(script);
    charts();
    document.body.dataset.charts = "drawn";
  } catch (e) {
    document.querySelectorAll(".chart").forEach(c => { c.textContent = "This browser cannot draw the chart (" + e.message + "); its numbers are in the tables and in the JSON beside this page."; });
  }
}
