"""Hotspots where rows are exchanged by DeepEP, in tools/clusters.py (docs/experts.md): case C5's experts from EP8 to EP16, and what a
balancer brings in a run."""
from cluster_studies import Study
from svg_chart import line_chart

C5 = "examples/experts-c5-deepep.yaml"
PUBLISHED = 36.79 / 37.86
LAWS = {"uniform": "{popularity: uniform}", "Zipf 0.6": "{popularity: {zipf: 0.6}}", "Zipf 0.8": "{popularity: {zipf: 0.8}}",
        "Zipf 0.6, static, 32 redundant": "{popularity: {zipf: 0.6}, eplb: {policy: static, redundant: 32}}"}
EVERY = (50, 100, 200, 400)


def step_ms(bench, hardware, ranks, sequences, law):
    """A decode step of so many sequences a rank: products of the experts, exchange, all. Prices alone: room for EP8's weights is made up."""
    cost = bench.cost(C5, f"decode {sequences}@4000", [
        f"deployment.hardware={hardware}", f"deployment.parallel={{dp: {ranks}, ep: {ranks}}}", f"deployment.experts={law}",
        "overrides.figures.memory_total=3e11"])
    lines = {word: sum(o["time_us"] for o in cost["steps"][0]["operators"] if o["operator"].startswith(word)) * 1e-3
             for word in ("moe_experts", "ep_")}
    return lines["moe_experts"], lines["ep_"], cost["steps"][0]["device_us"] * 1e-3


def ep8_to_ep16_exchanged(bench):
    rows, ratio = [], {}
    for hardware in ("h200", "h20"):
        for sequences in (16, 128):
            for law, text in LAWS.items():
                few, many = (step_ms(bench, hardware, ranks, sequences, text) for ranks in (8, 16))
                ratio[hardware, sequences, law] = many[0] / few[0]
                with_exchange = (many[0] + many[1]) / (few[0] + few[1])
                rows.append([hardware.upper(), sequences, law, few[0], many[0], many[0] / few[0], few[1], many[1], with_exchange,
                             few[2], many[2], many[2] / few[2]])
    rows.append(["published", "128 and 256 in all", "–", 37.86, 36.79, PUBLISHED, None, None, None, 71.31, 95.64, 95.64 / 71.31])
    both = {law: row_of(rows, "H200", 128, law)[8] for law in LAWS}
    hot, even, mended = (ratio["h20", 128, law] for law in ("Zipf 0.6", "uniform", "Zipf 0.6, static, 32 redundant"))
    return Study(
        "EP8 → EP16 with DeepEP, a hotspot and redundant experts (case C5)",
        "DeepSeek-R1 under SGLang, one attention rank a GPU, rows by DeepEP's low-latency kernels: decode steps of 4,000 tokens context, "
        "the same sequences a rank on twice the ranks.",
        f"orrery cost {C5} --step 'decode 128@4000' --set 'deployment.parallel={{dp: 8, ep: 8}}' --set 'deployment.experts=…'",
        ["part", "sequences a rank", "popularity", "experts EP8, ms", "EP16", "ratio", "exchange EP8, ms", "EP16", "both, ratio",
         "step EP8, ms", "EP16", "ratio"], rows,
        [f"Published is {PUBLISHED:.2f}. **Products alone do not meet it**: nearest, on an H20 with 128 sequences a rank, {even:.2f} when "
         f"uniform, {hot:.2f} under Zipf 0.6, {mended:.2f} with 32 redundant experts. With 16 a rank (128 and 256 in all) no popularity "
         "matters: each expert is one tile, or its weights decide, and a rank of EP16 has half as many.",
         f"**Products and exchange together do**, with 128 sequences a rank on H200: {both['uniform']:.2f} when uniform, "
         f"{both['Zipf 0.6']:.2f} under Zipf 0.6, {both['Zipf 0.6, static, 32 redundant']:.2f} with 32 redundant experts, in 27 to 30 ms: what half the "
         "weights save, the network takes. If the account's MoE time has its dispatch and combine in it, a mended hotspot meets it to 3 %. It "
         "names communication as what grows beside MoE, which speaks against that; then nothing here explains its ratio.",
         "A hotspot costs the exchange more than the products: under Zipf 0.6 on H200 with 128 a rank EP16's ways there and back take "
         f"{row_of(rows, 'H200', 128, 'Zipf 0.6')[7] - row_of(rows, 'H200', 128, 'uniform')[7]:.1f} ms more, its products "
         f"{row_of(rows, 'H200', 128, 'Zipf 0.6')[4] - row_of(rows, 'H200', 128, 'uniform')[4]:.1f} ms. Redundant experts take the first back "
         "and cost the products their weights, or a tile each.",
         f"**Not met**: whole steps. Published they grow by a third (71 → 96 ms); here by {100 * (max(r[11] for r in rows[:-1]) - 1):.0f} % at most, "
         "with a hotspot that nobody mends."],
        "Popularity is assumed; the account says neither part, context, weights' format nor which 128 it means, and its engine is TensorRT-LLM. "
        "DeepEP's timings are of uniform choices, taken at the busiest rank's rows; H20's links and products are the H200's in proportion. Memory for "
        "EP8's weights on an H20 is made up.")


def row_of(rows, *key):
    return next(r for r in rows if tuple(r[:len(key)]) == key)


def rebalancing_exchanged(bench):
    rows, lines = [], {}
    balancers = {"uniform experts": None, "never": "policy: off", "static, 32 redundant": "policy: static, redundant: 32"}
    for n in EVERY:
        periodic = f"policy: periodic, redundant: 32, every_steps: {n}, window_steps: {n}"
        balancers |= {f"each {n} steps": periodic, f"each {n} steps, beside steps": f"{periodic}, overlapped: true"}
    for name, text in balancers.items():
        run = bench.run(C5, ["deployment.experts={popularity: uniform}" if text is None else f"deployment.experts.eplb={{{text}}}"])
        e = run.get("experts", {})
        rows.append([name, *((e["balancedness"]["mean"], e["rebalances"], e["moved_bytes"] * 1e-12, e["stall_s"]) if e else
                             (1, 0, 0, 0)), run["tpot_ms"]["mean"], run["ttft_ms"]["p50"], run["e2e_ms"]["mean"]])
        if name in ("never", "static, 32 redundant", f"each {EVERY[0]} steps, beside steps", f"each {EVERY[-1]} steps"):
            lines[name] = [(s["at_s"], s["balancedness"]) for s in e["series"]] + [(run["duration_s"], e["series"][-1]["balancedness"])]
    even, never, often = rows[0], rows[1], row_of(rows, f"each {EVERY[0]} steps")
    best = min(rows[2:], key=lambda r: r[5])
    return Study(
        "Rebalancing where rows are exchanged",
        "The same deployment on sixteen H200 in a run: prompts by normal kernels, decodes by low-latency ones, a new topic each 20 s; the "
        "balancer called each so many steps, which wait while weights move over the network (SGLang's default) or do not.",
        f"orrery simulate {C5} --set 'deployment.experts.eplb={{policy: periodic, redundant: 32, every_steps: N, window_steps: N}}'",
        ["balancer", "balancedness", "rebalancings", "moved, TB", "waited, s", "TPOT mean, ms", "TTFT p50, ms", "E2E mean, ms"], rows,
        [f"At this load the hotspot does not cost but save: TPOT is {never[5] / even[5]:.2f} of uniform experts', because decodes of few rows "
         "read weights, and unequal choices fewer of them. More slots cost their weights whatever they balance.",
         f"A step that waits for each of {often[2]} moves pays {100 * (often[5] / never[5] - 1):.0f} % of TPOT for a balance of {often[1]:.2f}: "
         f"a move is {often[4] / max(1, often[2]):.1f} s of the network.",
         f"Best of those with a balancer: {best[0]} ({best[5]:.1f} ms against {never[5]:.1f} without)."],
        "Popularity (Zipf 0.6) and topics of 20 s are assumed; moves beside steps are flows that share the network with the exchange; nothing of it was compared "
        "with a run.",
        {"balancedness_deepep.svg": line_chart("Balancedness over time (C5, EP16, DeepEP, a topic each 20 s)", "simulated time, s",
                                               "balancedness", lines, steps=True)})


STUDIES = [ep8_to_ep16_exchanged, rebalancing_exchanged]
