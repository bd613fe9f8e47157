"""The what-ifs of tools/clusters.py: each is a function of a Bench that gives a Study."""
import collections
import csv
import dataclasses
import statistics

from svg_chart import line_chart

C1 = "examples/experts-c1-tp8-or-ep8.yaml"
C5 = "examples/experts-c5-ep8-to-ep16.yaml"


@dataclasses.dataclass
class Study:
    title: str
    question: str
    command: str
    header: list
    rows: list
    says: list                       # conclusions
    unverified: str
    charts: dict = dataclasses.field(default_factory=dict)      # file name: SVG


def set_options(settings):
    return [word for setting in settings for word in ("--set", setting)]


def number(value, digits=4):
    return "–" if value is None else value if isinstance(value, str) else f"{value:.{digits}g}"


def class_ms(cost, op_class):
    return sum(o["time_us"] for o in cost["steps"][0]["operators"] if o["class"] == op_class) * 1e-3


def experts_ms(bench, scenario, step, settings):
    return class_ms(bench.cost(scenario, step, settings), "grouped_gemm")


# ------------------------------------------------------------------------------------------ hot experts

C1_PLANS = {
    "EP8, uniform": ["deployment.experts={popularity: uniform}"],
    "EP8, Zipf 0.8": ["deployment.experts={popularity: {zipf: 0.8}}"],
    "EP8, Zipf 0.8, static, 16 redundant":
        ["deployment.experts={popularity: {zipf: 0.8}, eplb: {policy: static, redundant: 16}}"],
    "TP8, Zipf 0.8": ["deployment.parallel={tp: 8}", "deployment.experts={popularity: {zipf: 0.8}}"],
}


def tp_or_ep(bench):
    steps = ["prefill 8192@0", "decode 16@2000", "decode 256@2000"]
    rows, prefill = [], {}
    for name, settings in C1_PLANS.items():
        ms = [experts_ms(bench, C1, step, settings) for step in steps]
        device = [bench.cost(C1, step, settings)["steps"][0]["device_us"] * 1e-3 for step in steps]
        prefill[name] = ms[0]
        rows.append([name, *ms, *device])
    loss = prefill["EP8, Zipf 0.8"] / prefill["EP8, uniform"]
    back = prefill["EP8, Zipf 0.8, static, 16 redundant"] / prefill["EP8, uniform"]
    runs = {name: bench.run(C1, settings) for name, settings in {
        "TP8": ["deployment.parallel={tp: 8}"], "EP8": []}.items()}
    ratio = runs["TP8"]["tpot_ms"]["mean"] / runs["EP8"]["tpot_ms"]["mean"]
    return Study(
        "TP8 or EP8 under a hotspot (case C1)",
        "Qwen3-235B in PTPC FP8 on eight MI300X under SGLang. What does a hotspot cost expert parallelism?",
        f"orrery cost {C1} --step 'prefill 8192@0' --set … (rows below); orrery simulate {C1}",
        ["plan", *(f"experts, {s}, ms" for s in steps), *(f"device, {s}, ms" for s in steps)], rows,
        [f"A hotspot makes EP8's expert products {100 * (loss - 1):.0f} % longer in prompts; 16 redundant experts, placed "
         f"once by the popularity, leave {100 * (back - 1):.0f} %. TP8 has none by construction.",
         f"Decodes of few tokens hardly notice: weights decide there. In the run TP8's mean TPOT is {ratio:.2f} of EP8's, "
         "as the account chose."],
        "MI300X is priced by a roofline; popularity (Zipf 0.8) and its change each 20 s are assumed; EP's traffic is an "
        "all-reduce here. The account gives no times of either plan.")


def ep8_to_ep16(bench):
    plans = {"EP8, 128 sequences": (8, 128), "EP16, 256 sequences": (16, 256)}
    laws = {"uniform": "popularity: uniform", "Zipf 0.6": "popularity: {zipf: 0.6}",
            "Zipf 0.6, static, 32 redundant": "popularity: {zipf: 0.6}, eplb: {policy: static, redundant: 32}"}
    rows, grows = [], {}
    for law, text in laws.items():
        ms, flops = [], []
        for width, sequences in plans.values():
            settings = [f"deployment.parallel={{tp: {width}, ep: {width}}}", f"deployment.experts={{{text}}}"]
            cost = bench.cost(C5, f"decode {sequences}@2000", settings)
            ms.append(class_ms(cost, "grouped_gemm"))
            flops.append(sum(o["flops"] for o in cost["steps"][0]["operators"] if o["class"] == "grouped_gemm") * 1e-9)
        grows[law] = flops[1] / flops[0]
        rows.append([law, *flops, flops[1] / flops[0], *ms, ms[1] / ms[0]])
    rows.append(["published", None, None, None, 37.86, 36.79, 36.79 / 37.86])
    return Study(
        "EP8 → EP16 with twice the sequences (case C5)",
        "DeepSeek-R1 on H200: 128 sequences on EP8, 256 on EP16: as many rows a rank, half as many experts. Products of the "
        "experts, all layers.",
        f"orrery cost {C5} --step 'decode 256@2000' --set 'deployment.parallel={{tp: 16, ep: 16}}' --set …",
        ["popularity", *(f"slowest rank, {p}, GFLOP" for p in plans), "ratio", *(f"{p}, ms" for p in plans), "ratio"], rows,
        [f"Work of the slowest rank: {100 * (grows['uniform'] - 1):.0f} % more when uniform, "
         f"{100 * (grows['Zipf 0.6'] - 1):.0f} % under Zipf 0.6, {100 * (grows['Zipf 0.6, static, 32 redundant'] - 1):.0f} % "
         "with 32 redundant experts: redundancy brings scaling back, as the account says.",
         "**Not met**: the account's MoE time stays (0.97), Orrery's falls to 0.6, because weights decide at these sizes and a "
         "rank of EP16 reads half as many. The account's rows per expert and weights' format are not given; nothing is fitted."],
        "`ep` equals `tp` here, and EP16's all-reduces cross two nodes by NCCL's model of itself, corrected by tables; the account's plan is attention DP with an "
        "all-to-all ([experts.md](../../docs/experts.md) has SGLang's with DeepEP), so whole steps (71.31 → 95.64 ms published) are not compared. Popularity is assumed.")


def balancedness(bench):
    policies = {
        "off": "off}", "static, 16 redundant": "static, redundant: 16}",
        "each 1000 steps": "periodic, redundant: 16, every_steps: 1000, window_steps: 1000}",
        "each 50 steps": "periodic, redundant: 16, every_steps: 50, window_steps: 50}"}
    rows, lines = [], {}
    for name, text in policies.items():
        run = bench.run(C1, [f"deployment.experts.eplb={{policy: {text}"])
        e = run["experts"]
        end = run["duration_s"]
        lines[name] = [(s["at_s"], s["balancedness"]) for s in e["series"]] + [(end, e["series"][-1]["balancedness"])]
        rows.append([name, e["balancedness"]["mean"], e["balancedness"]["least"], e["rebalances"], e["stall_s"],
                     run["ttft_ms"]["p99"], run["tpot_ms"]["mean"]])
    return Study(
        "Balancedness over time",
        "C1's deployment with a new topic each 20 s: mean rows of a rank ÷ those of the rank with most.",
        f"orrery simulate {C1} --set 'deployment.experts.eplb={{policy: …}}' --json (experts.series)",
        ["policy", "mean", "least", "rebalancings", "waited, s", "TTFT p99, ms", "TPOT mean, ms"], rows,
        ["A placement by the first topic's popularity is right until the topic changes, and then no better than none.",
         "Looking back over more steps than a topic lasts mends what is gone."],
        "Popularity is Zipf 0.8 and topics change at once each 20 s: both assumed; how fast they change in a service was not "
        "found published.",
        {"balancedness.svg": line_chart("Balancedness over time (C1, EP8, a topic each 20 s)", "simulated time, s",
                                        "balancedness", lines, steps=True)})


def rebalancing(bench):
    rows, tpot, balanced = [], [], []
    for every in (10, 20, 50, 100, 200, 500, 1000):
        run = bench.run(C1, [f"deployment.experts.eplb={{policy: periodic, redundant: 16, every_steps: {every}, "
                             f"window_steps: {every}}}"])
        e = run["experts"]
        rows.append([every, run["tpot_ms"]["mean"], run["ttft_ms"]["p99"], e["balancedness"]["mean"],
                     e["moved_bytes"] * 1e-12, e["stall_s"]])
        tpot.append((every, run["tpot_ms"]["mean"]))
        balanced.append((every, e["balancedness"]["mean"]))
    off = bench.run(C1, [])
    rows.append(["never", off["tpot_ms"]["mean"], off["ttft_ms"]["p99"], off["experts"]["balancedness"]["mean"], 0, 0])
    never = rows[-1]
    best = min(rows[:-1], key=lambda r: r[2])
    return Study(
        "The price of rebalancing too often",
        "The same run, the balancer called each so many steps; SGLang's waits while weights move.",
        f"orrery simulate {C1} --set 'deployment.experts.eplb={{policy: periodic, redundant: 16, every_steps: N, "
        "window_steps: N}'",
        ["every N steps", "TPOT mean, ms", "TTFT p99, ms", "balancedness", "moved, TB", "waited, s"], rows,
        [f"TPOT is least without a balancer ({never[1]:.1f} ms): decodes gain nothing from balance here (weights decide), pay for "
         f"16 more experts, and wait for moves; at N = {rows[0][0]} that is {rows[0][1] / never[1]:.2f} times as much.",
         f"Prompts gain: TTFT p99 is least at N = {best[0]}, {100 * (1 - best[2] / never[2]):.0f} % below never's, for "
         f"{100 * (best[1] / never[1] - 1):.0f} % of TPOT. Below N = 50 balance no longer improves and only the moves grow."],
        "As above; moves take scale-up links that nothing else uses, and a step that overlaps with one is not slowed.",
        {"rebalancing.svg": line_chart("Rebalancing each N steps (C1, EP8)", "N", "TPOT mean, ms",
                                       {"with moves": tpot, "never": [(x, off["tpot_ms"]["mean"]) for x, _ in tpot]},
                                       log_x=True)})


# ------------------------------------------------------------------------------- prefill and decode apart

def lengths(kind, mean):
    return f"workload.generator.{kind}={{distribution: log-normal, mean: {mean}, cv: 0.5, low: 8, high: 16000}}"


PART = "hardware: h200, model: qwen3-32b, engine: vllm-0.24"
BOX = "examples/qwen3-32b-h200-pd.yaml"


def colocated(count):
    return [f"deployment={{{PART}, replicas: {count}}}"]


def apart(prefill, decode):
    return [f"deployment.pools[0].replicas={prefill}", f"deployment.pools[1].replicas={decode}"]


DEPLOYMENTS = {"8 mixed": colocated(8), "2 + 6": apart(2, 6), "4 + 4": apart(4, 4), "6 + 2": apart(6, 2)}
SHAPES = {"long prompts, 4000 → 100": (4000, 100, (4, 6, 8, 10, 12)), "chat, 1500 → 250": (1500, 250, (8, 14, 20, 26, 32)),
          "long answers, 300 → 600": (300, 600, (10, 30, 50, 60, 70))}


def offered(rate, seconds, lengths_of):
    requests = int(rate * seconds)
    return [f"workload={{generator: {{requests: {requests}, arrivals: {{process: poisson, rate: {rate}}}, "
            "input: {distribution: fixed, value: 1}, output: {distribution: fixed, value: 1}}}",
            lengths("input", lengths_of[0]), lengths("output", lengths_of[1])]


def goodput(bench, scenario, deployment, rate, shape, slo, seconds=40):
    run = bench.run(scenario, [*deployment, *offered(rate, seconds, shape), f"slo={slo}"])
    return run["goodput"]["attainment"] * rate, run


def verdict(good, rate):
    """Who keeps most requests within limits: (a word for the count, a text)."""
    mixed = good["8 mixed"]
    best = max((name for name in good if name != "8 mixed"), key=good.get)
    if max(mixed, good[best]) < 0.5 * rate:
        return "neither", "neither keeps half"
    if abs(good[best] - mixed) <= 0.02 * rate:
        return "even", "even"
    if mixed > good[best]:
        return "mixed", f"8 mixed, {mixed - good[best]:.1f}/s more than {best}"
    return "apart", f"{best}, {good[best] - mixed:.1f}/s more"


def apart_or_not(bench):
    limits = {"40 ms": "{ttft_ms: 2000, tpot_ms: 40}", "24 ms": "{ttft_ms: 2000, tpot_ms: 24}"}
    rows, charts, says = [], {}, []
    for limit, slo in limits.items():
        for shape, (prompt, answer, rates) in SHAPES.items():
            lines, won = collections.defaultdict(list), collections.defaultdict(list)
            for rate in rates:
                good = {name: goodput(bench, BOX, settings, rate, (prompt, answer), slo)[0]
                        for name, settings in DEPLOYMENTS.items()}
                for name, value in good.items():
                    lines[name].append((rate, value))
                who, text = verdict(good, rate)
                won[who].append(f"{rate:g}")
                rows.append([limit, shape, rate, *good.values(), text])
            says.append(f"{shape}, TPOT {limit}: " + "; ".join(
                f"{who} at {', '.join(at)}/s" for who, at in won.items()) + ".")
            file = f"apart_{shape.split(',')[0].replace(' ', '_')}_{limit.split()[0]}ms.svg"
            charts[file] = line_chart(f"Goodput: {shape}, TTFT 2 s, TPOT {limit}", "offered, requests/s",
                                      "requests/s within limits", lines)
    says.append("A split for other lengths than it gets loses more than going apart wins: see 2 + 6 under long prompts, 6 + 2 "
                "under long answers. Mixed instances need no choice.")
    return Study(
        "Prefill and decode apart, or not, on eight GPUs",
        "Qwen3-32B on eight H200 of one node, four ways; goodput = requests/s that meet both limits, for an offered rate.",
        f"orrery simulate {BOX} --set 'deployment.pools[0].replicas=4' --set … --set 'slo={{ttft_ms: 2000, tpot_ms: 24}}'",
        ["TPOT limit", "lengths", "offered/s", *(f"{d}, good/s" for d in DEPLOYMENTS), "best"], rows, says,
        "Hand-offs use data-sheet rates of NVLink; compared with one published run, on another part (docs/disaggregation.md). "
        "Lengths are log-normal, arrivals Poisson, both assumed. Forty seconds of arrivals: rates beyond capacity would look "
        "worse the longer the run. The split was chosen from three, knowing the lengths.", charts)


def heterogeneous(bench):
    topology = bench.file("l40s_and_hopper.yaml", L40S_AND_HOPPER)
    model = "model: qwen3-8b, engine: vllm-0.24"
    deployments = {
        "8 × H20 mixed": f"{{hardware: h20, {model}, replicas: 8}}",
        "8 × H100 mixed": f"{{hardware: h100, {model}, replicas: 8}}",
        "4 × H100 prefill + 4 × H20 decode": f"{{topology: {{preset: hopper-8}}, pools: [{{name: p, role: prefill, hardware: "
        f"h100, {model}, replicas: 4}}, {{name: d, role: decode, hardware: h20, {model}, replicas: 4}}]}}",
        "4 × H20 prefill + 4 × H20 decode": f"{{topology: {{preset: hopper-8}}, pools: [{{name: p, role: prefill, hardware: "
        f"h20, {model}, replicas: 4}}, {{name: d, role: decode, hardware: h20, {model}, replicas: 4}}]}}",
        "4 × L40S prefill + 4 × H20 decode": f"{{topology: {topology}, pools: [{{name: p, role: prefill, hardware: l40s, "
        f"{model}, replicas: 4}}, {{name: d, role: decode, hardware: h20, {model}, replicas: 4}}]}}",
    }
    rows, lines = [], collections.defaultdict(list)
    for rate in (10, 20, 40, 60):
        for name, text in deployments.items():
            good, run = goodput(bench, BOX, [f"deployment={text}"], rate, (2000, 300), "{ttft_ms: 2000, tpot_ms: 25}", 30)
            transfer = run["transfers"]["ttft_parts_ms"]["transfer"]["mean"] if run["transfers"] else None
            lines[name].append((rate, good))
            rows.append([rate, name, good, run["ttft_ms"]["p50"], run["ttft_ms"]["p99"], run["tpot_ms"]["mean"], transfer])
    return Study(
        "Heterogeneous prefill and decode",
        "Qwen3-8B, prompts of 2000 and answers of 300 tokens in the mean; goodput within TTFT 2 s and TPOT 25 ms.",
        "orrery simulate examples/h100-prefill-h20-decode.yaml; examples/l40s-prefill-h20-decode.yaml",
        ["offered/s", "deployment", "good/s", "TTFT p50, ms", "TTFT p99, ms", "TPOT mean, ms", "transfer mean, ms"], rows,
        most(lines) + ["An H20 has a seventh of an H100's tensor rate and more bandwidth: prompts decide what a pool of it takes. With "
                       "H100s in front, decodes are shorter than on eight mixed H100s until decode GPUs fill up.",
                       "L40S in front lift H20s too, up to what their prompts allow; the hand-off over a NIC a card is 10 ms."],
        "Kernel tables of H20 are carried over, those of L40S published; the L40S host with a 200 Gb/s NIC a card is an "
        "assumption (file beside this report). No such deployment was compared.",
        {"heterogeneous.svg": line_chart("Heterogeneous prefill and decode, Qwen3-8B", "offered, requests/s",
                                         "requests/s within limits", lines)})


def most(lines):
    """The highest offered rate of which nine tenths stay within limits, by deployment."""
    kept = {name: max([rate for rate, good in line if good >= 0.9 * rate], default=0) for name, line in lines.items()}
    return ["Highest rate tried of which nine tenths stay within limits: " +
            ", ".join(f"{name} {rate:g}/s" for name, rate in kept.items()) + "."]


C5_APART = "examples/c5-deepseek-r1-pd.yaml"


def two_nodes_of_r1(bench):
    part = "hardware: h200, model: deepseek-r1, engine: vllm-0.24, parallel: {tp: 8}"
    rows, lines, kept = [], collections.defaultdict(list), collections.Counter()
    for per_minute in (60, 120, 180, 240, 300, 360, 420):
        row = [per_minute]
        for name, settings in (("2 × TP8 mixed", [f"deployment={{{part}, replicas: 2}}"]), ("TP8 prefill + TP8 decode", [])):
            run = bench.run(C5_APART, [*settings, f"workload.generator.requests={per_minute}",
                                       f"workload.generator.arrivals.rate={per_minute / 60:g}"])
            good = run["goodput"]["attainment"] * per_minute
            lines[name].append((per_minute, good))
            kept[name] = max(kept[name], good)
            row += [good, run["ttft_ms"]["p50"], run["tpot_ms"]["mean"]]
        rows.append(row)
    mixed, apart_most = kept["2 × TP8 mixed"], kept["TP8 prefill + TP8 decode"]
    return Study(
        "DeepSeek-R1 on two Hopper nodes, TPOT at most 50 ms (case C5)",
        "Prompts of 3500 and answers of 1000 tokens, sixteen H200, limits TTFT 5 s and TPOT 50 ms; queries a minute within them.",
        f"orrery simulate {C5_APART} --set workload.generator.arrivals.rate=4",
        ["offered/min", "mixed: good/min", "TTFT p50, ms", "TPOT mean, ms", "apart: good/min", "TTFT p50, ms", "TPOT mean, ms"],
        rows,
        [f"Mixed keeps up to {mixed:.0f} a minute on two nodes, apart {apart_most:.0f}: one node of TP8 cannot take more prompts. "
         "Decodes apart are shorter at the same rate once prompts are many.",
         f"**Not met, and not the same system**: the account has 202 a minute apart, 137 on one node mixed, and 30 to 40 % more "
         f"goodput apart at 20 to 25 tokens/s a user; here a mixed node has {mixed / 2:.0f}. Its decode side is attention data "
         "parallelism with many experts' ranks, its engine TensorRT-LLM, and its number of GPUs is not given."],
        "Latent attention is priced from published kernels; host costs are those of other models; no run of ours serves this model.",
        {"r1_two_nodes.svg": line_chart("DeepSeek-R1, 16 × H200, TTFT 5 s, TPOT 50 ms", "offered, queries/min",
                                        "queries/min within limits", lines)})


def l40s_and_hopper():
    """Four L40S with a NIC each, four GPUs behind an NVSwitch with a NIC each, one leaf."""
    figure = '{{value: {0}, unit: {1}, kind: {2}, source: "{3}"}}'
    out = ["# Four L40S (one NIC of 200 Gb/s each) and half a Hopper node (400 Gb/s each) on one leaf switch: assumed.",
           "name: l40s-and-hopper", "devices:", "  - {name: leaf, kind: leaf, index: 0}",
           "  - {name: switch, kind: nvswitch, node: 1, index: 0}"]
    links = []

    def link(a, b, kind, rate, unit, why, evidence="datasheet"):
        links.append(f"  - between: [{a}, {b}]\n    class: {kind}\n    bandwidth: " +
                     figure.format(rate, unit, evidence, why) + "\n    latency: " +
                     figure.format(1, "us", "assumed", "as the presets'"))

    for i in range(4):
        for node, name in ((0, "l"), (1, "h")):
            out += [f"  - {{name: {name}{i}, kind: gpu, node: {node}, index: {i}}}",
                    f"  - {{name: {name}nic{i}, kind: nic, node: {node}, index: {i}}}"]
    for i in range(4):
        link(f"l{i}", f"lnic{i}", "pcie", 31, "GB/s", "PCIe 4 x16, as preset l40s-8")
        link(f"lnic{i}", "leaf", "network", 200, "Gb/s", "a NIC of 200 Gb/s a card", "assumed")
        link(f"h{i}", "switch", "nvlink", 450, "GB/s", "NVLink 4, as preset hopper-8")
        link(f"h{i}", f"hnic{i}", "pcie", 63, "GB/s", "PCIe 5 x16")
        link(f"hnic{i}", "leaf", "network", 400, "Gb/s", "ConnectX-7")
    return "\n".join(out + ["links:"] + links) + "\n"


L40S_AND_HOPPER = l40s_and_hopper()


# ---------------------------------------------------------------------------------- stages, figures, tables

def stages_or_tensors(bench):
    rows, better = [], collections.defaultdict(list)
    for hardware, model in (("h200", "qwen3-32b"), ("l40s", "qwen3-14b")):
        for kind, clients, prompt, answer in (("latency", 1, 1500, 200), ("some load", 16, 1500, 200),
                                              ("saturated", 128, 1500, 200), ("saturated, prompts", 128, 4000, 50)):
            row = [f"{model}, 2 × {hardware}", f"{kind}: {clients} clients, {prompt} → {answer}"]
            for plan in ("{tp: 2}", "{pp: 2}"):
                run = bench.run("examples/qwen3-32b-h200-pp2.yaml", [
                    f"deployment={{hardware: {hardware}, model: {model}, engine: vllm-0.24, parallel: {plan}, engine_args: "
                    "{max_model_len: 16384}}",
                    f"workload={{generator: {{requests: {max(4, 3 * clients)}, arrivals: {{process: fixed, rate: 1000}}, input: "
                    f"{{distribution: fixed, value: {prompt}}}, output: {{distribution: fixed, value: {answer}}}}}, "
                    f"closed_loop: {{concurrency: {clients}}}}}"])
                row += [run["ttft_ms"]["p50"], run["tpot_ms"]["mean"], run["throughput"]["output_tokens_per_s"]]
            rows.append(row)
            better["pp" if row[7] > row[4] else "tp"].append(f"{row[0].split()[-1]} {kind} ({row[7] / row[4]:.2f})")
    return Study(
        "Pipeline stages or tensor parallelism, two GPUs",
        "The same two GPUs as tp 2 and as pp 2, in a closed loop.",
        "orrery simulate examples/qwen3-32b-h200-pp2.yaml --set 'deployment.parallel={tp: 2}' --set workload=…",
        ["deployment", "load: clients, prompt → answer tokens", "tp: TTFT p50, ms", "TPOT mean, ms", "tokens/s", "pp: TTFT p50, ms",
         "TPOT mean, ms", "tokens/s"], rows,
        [f"More tokens/s with tp: {', '.join(better['tp'])}; with pp: {', '.join(better['pp'])} (in brackets pp ÷ tp).",
         "Stages halve nobody's step, so tp answers one client sooner. Saturated, pp loses bubbles and tp its all-reduces: over "
         "NVLink about even, over PCIe (L40S) pp carries more."],
        "Two stages on H200 were compared with runs (reports/results/pipeline_parallel.md), stages on L40S with none; an L40S "
        "host's PCIe differs by ten times between machines.")


def faster_kernel(bench):
    cases = [("Qwen3-30B-A3B FP8 on R9700, tp 2 (C4)", "examples/c4-r9700-tp2.yaml", "grouped_gemm", "decode 4@1200"),
             ("Qwen3-8B FP8 on L40S, batch 1 (C2)", "examples/c2-l40s-one-card.yaml", "gemm", "decode 1@7000"),
             ("Qwen3-235B on 8 MI300X, EP8 (C1)", C1, "grouped_gemm", "decode 32@2000")]
    rows = []
    for name, file, op_class, step in cases:
        both = bench.json("cost", "--compare", file, file, "--with", f"overrides.op_scale.{op_class}={1 / 1.2:.6f}", "--run",
                          "--step", step, "--json")
        before = {"steps": [both["steps"][0]["a"]]}
        part = class_ms(before, op_class) * 1e3 / both["steps"][0]["a"]["busy_us"]
        rows.append([name, op_class, f"{100 * part:.0f} % of {step}", *(100 * (both["run"]["metrics"][m]["ratio"] - 1) for m in
                                                                       ("ttft_mean_ms", "tpot_mean_ms", "e2e_mean_ms"))])
    bandwidth = bench.json("cost", "--compare", "examples/qwen3-8b-h200.yaml", "examples/qwen3-8b-h200.yaml", "--with",
                           "overrides.figures.hbm_bandwidth=5.76e12", "--run", "--json")["run"]["metrics"]
    rows.append(["Qwen3-8B on H200, 20 % more HBM bandwidth", "figures.hbm_bandwidth", "–",
                 *(100 * (bandwidth[m]["ratio"] - 1) for m in ("ttft_mean_ms", "tpot_mean_ms", "e2e_mean_ms"))])
    return Study(
        "What a kernel 20 % faster gives end to end",
        "The time of a class of operators divided by 1.2, all else as it was.",
        "orrery cost --compare FILE FILE --with overrides.op_scale.grouped_gemm=0.833333 --run",
        ["deployment", "made faster", "share of a step", "TTFT mean, %", "TPOT mean, %", "E2E mean, %"], rows,
        ["One request at a time (C2) is Amdahl's law: the class's share of the step times 16.7 %.",
         "Under load a run gains more than that: when each request leaves sooner, fewer run at once, and steps are shorter for "
         "that too. The share alone would understate it."],
        "A what-if scales prices and measures nothing; the share of a class is only as good as its prices (R9700, MI300X: "
        "roofline).")


def held_out_errors(path, key):
    sets = collections.defaultdict(list)
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            if row["held_out"] == "1":
                sets[key(row)].append(abs(float(row["error"])))
    return [[*name, len(errors), 100 * statistics.median(errors), 100 * max(errors)] for name, errors in sorted(sets.items())]


def collectives(root):
    results = root / "reports/results"
    inside = held_out_errors(results / "collectives.csv", lambda r: (r["part"], r["library"], r["operator"], "1"))
    across = held_out_errors(results / "collectives_across.csv", lambda r: (r["part"], r["set"], r["operator"], r["nodes"]))
    rows = inside + across
    beyond = [f"{r[0]} {r[1]} {r[2]} ({r[5]:.1f} %)" for r in rows if r[5] > 10]
    return Study(
        "Collectives against measured tables",
        "Median error of the sizes that were not fitted, per set: inside a node, and between nodes of eight with 400 Gb/s a GPU.",
        "python3 tools/collectives_report.py --build build/release (needs ../shared); python3 tools/collectives_across.py; read here "
        "from their .csv",
        ["part", "library or set", "operator", "nodes", "sizes", "median error, %", "worst, %"], rows,
        [f"{len(rows) - len(beyond)} of {len(rows)} sets have a median of at most 10 %. Above it: "
         f"{', '.join(beyond) if beyond else 'none'}.",
         "Between nodes (collectives_across.md): what the sets are, and what disagrees among them."],
        "Single sizes err far more. Between nodes reduce-scatters, all-to-alls, fewer NICs and RCCL were compared with nothing.")


STUDIES = [tp_or_ep, ep8_to_ep16, balancedness, rebalancing, apart_or_not, two_nodes_of_r1, heterogeneous,
           stages_or_tensors, faster_kernel]
