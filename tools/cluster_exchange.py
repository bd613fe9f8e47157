"""Hotspots where rows are exchanged by DeepEP, in tools/clusters.py (docs/experts.md): case C5's experts from EP8 to EP16, and what a balancer brings in a run."""
from cluster_studies import Study, class_ms
from svg_chart import line_chart

C5 = "examples/experts-c5-deepep.yaml"
PUBLISHED = 36.79 / 37.86
LAWS = {"uniform": "{popularity: uniform}", "Zipf 0.6": "{popularity: {zipf: 0.6}}",
        "Zipf 0.6, static, 32 redundant": "{popularity: {zipf: 0.6}, eplb: {policy: static, redundant: 32}}",
        "Zipf 0.8": "{popularity: {zipf: 0.8}}"}
PART = {"H200": "h200", "H20": "h20"}


def step_ms(bench, hardware, ranks, sequences, law):
    """Of a decode step with so many sequences a rank: products of the experts, exchange, all."""
    cost = bench.cost(C5, f"decode {sequences}@4000", [
        f"deployment.hardware={hardware}", f"deployment.parallel={{dp: {ranks}, ep: {ranks}}}", f"deployment.experts={law}",
        "deployment.engine_args.max_running_requests=4096", "deployment.engine_args.mem_fraction_static=0.95",
        "deployment.quantization=auto"][:5])
    lines = cost["steps"][0]["operators"]
    exchange = sum(o["time_us"] for o in lines if o["name"].startswith("ep_")) * 1e-3
    return class_ms(cost, "grouped_gemm"), exchange, cost["steps"][0]["device_us"] * 1e-3


def ep8_to_ep16_exchanged(bench):
    rows, ratio = [], {}
    for part, hardware in PART.items():
        for sequences in (16, 128):
            for law, text in LAWS.items():
                few, many = (step_ms(bench, hardware, ranks, sequences, text) for ranks in (8, 16))
                ratio[part, sequences, law] = many[0] / few[0]
                rows.append([part, sequences, law, few[0], many[0], many[0] / few[0], few[1], many[1], few[2], many[2]])
    rows.append(["published", None, None, 37.86, 36.79, PUBLISHED, None, None, 71.31, 95.64])
    return rows, ratio
