"""What shares links in a cluster, and what that costs: a study of tools/clusters.py."""
import cluster_laws
from cluster_studies import Study

PD = "examples/qwen3-32b-h200-pd.yaml"
PLAIN = "examples/qwen3-8b-h200.yaml"
WIDE = "examples/deepseek-r1-h200-ep64-pd.yaml"
SHORT = "workload.limit={requests: 400}"
ONE_BOARD = "topology: {preset: hopper-8}"


def pools(hardware, model, plan):
    part = f"hardware: {hardware}, model: {model}, engine: vllm-0.24, parallel: {plan}, engine_args: {{max_model_len: 16384}}"
    return [SHORT, "deployment.pd={connector: moriio}", "deployment.pools=[{name: p, role: prefill, " + part +
            "}, {name: d, role: decode, " + part + "}]"]


def moving(topology):
    return [SHORT, f"deployment={{{topology}hardware: h200, model: qwen3-30b-a3b, engine: vllm-0.24, parallel: {{tp: 8, ep: 8}}, experts: "
            "{popularity: {zipf: 0.8}, drift: {every_s: 5}, eplb: {policy: periodic, redundant: 16, every_steps: 100, window_steps: 50}}}"]


def tier(topology, hardware, model, blocks, pace):
    return [f"workload.time_scale={pace}",
            f"deployment={{{topology}hardware: {hardware}, model: {model}, engine: vllm-0.24, parallel: {{tp: 2}}, engine_args: "
            f"{{kv_offloading_size: 64, num_gpu_blocks_override: {blocks}, max_model_len: 16384}}}}"]


def cases(bench):
    free = "deployment.topology=" + bench.file("wide.yaml", cluster_laws.wide_fabric(1e6))
    slower = "workload.time_scale=2"
    half = "faults=[{at_s: 0, kind: link, factor: 0.5, target: [node0.gpu1, node0.nvswitch0]}]"
    nic = "faults=[{at_s: 0, kind: nic, factor: 0.5, target: all}]"
    sessions = "examples/qwen3-8b-h200-sessions.yaml"
    return [
        ("KV of prompts beside all-reduces, NVLink", "Qwen3-32B, TP4 + TP4 on a node", PD, [*pools("h200", "qwen3-32b", "{tp: 4}"), free],
         pools("h200", "qwen3-32b", "{tp: 4}")),
        ("KV of prompts beside all-reduces, PCIe", "Qwen3-8B, TP2 + TP2 on L40S", PD, [*pools("l40s", "qwen3-8b", "{tp: 2}"), slower, free],
         [*pools("l40s", "qwen3-8b", "{tp: 2}"), slower, "deployment.topology={preset: l40s-8}"]),
        ("experts' weights beside all-reduces, NVLink", "Qwen3-30B-A3B, TP8 EP8, EPLB each 100 steps", PLAIN, moving(""),
         moving(ONE_BOARD + ", ")),
        ("host tier, two GPUs on a PCIe switch", "Qwen3-8B, TP2, sessions", sessions, tier("", "h200", "qwen3-8b", 2500, 0.25),
         tier(ONE_BOARD + ", ", "h200", "qwen3-8b", 2500, 0.25)),
        ("host tier beside all-reduces, PCIe", "Qwen3-8B, TP2 on L40S, sessions", sessions, tier("", "l40s", "qwen3-8b", 2500, 0.06),
         tier("topology: {preset: l40s-8}, ", "l40s", "qwen3-8b", 2500, 0.06)),
        ("one NVLink at half", "Qwen3-32B, TP4", PLAIN,
         [SHORT, f"deployment={{{ONE_BOARD}, hardware: h200, model: qwen3-32b, engine: vllm-0.24, parallel: {{tp: 4}}}}"],
         [SHORT, f"deployment={{{ONE_BOARD}, hardware: h200, model: qwen3-32b, engine: vllm-0.24, parallel: {{tp: 4}}}}", half]),
        ("all NICs at half", "DeepSeek-R1, EP64 with prefill apart", WIDE, [SHORT], [SHORT, nic]),
    ]


def one_network(bench):
    rows, transfers = [], []
    for what, deployment, scenario, without, with_it in cases(bench):
        alone, shared = bench.run(scenario, without), bench.run(scenario, with_it)
        values = [(run["ttft_ms"]["mean"], run["tpot_ms"]["mean"]) for run in (alone, shared)]
        rows.append([what, deployment, values[0][0], values[1][0], values[1][0] / values[0][0], values[0][1], values[1][1],
                     values[1][1] / values[0][1]])
        if "TP2 + TP2" in deployment:
            transfers = [run["transfers"]["ttft_parts_ms"] for run in (alone, shared)]
    worst = max(rows, key=lambda row: max(row[4], row[7]))
    return Study(
        "One network under everything",
        "What crosses the same links at the same time costs each other: runs where nothing else is on them (no topology, links without bounds, "
        "or no fault), and the same with the topology.",
        f"orrery simulate {PLAIN} --set 'deployment={{topology: {{preset: hopper-8}}, …}}'",
        ["what shares links", "deployment", "alone: TTFT mean, ms", "shared", "ratio", "alone: TPOT mean, ms", "shared", "ratio"], rows,
        [f"The most is lost by: {worst[0]} (TTFT × {worst[4]:.3f}, TPOT × {worst[7]:.3f}). Over NVLink transfers are short beside steps, so that "
         "sharing costs little.",
         f"On L40S a prompt's KV takes {transfers[1]['transfer']['mean']:.1f} ms over PCIe, and its client sees nothing of it: the decode engine looks for "
         f"what has come once a step, so that requests wait {transfers[0]['decode_queue']['mean'] - transfers[1]['decode_queue']['mean']:.1f} ms less there.",
         "What a transfer costs a single all-reduce, all-to-all, hand-off or copy, and they it, is reckoned by hand in tests "
         "(shared_links_test, fabric_runs_test): beside k flows a collective has 1 ÷ (k + 1) of the link."],
        "Links at data-sheet rates; that shares are max-min, and which PCIe slots share a switch, is assumed. Compared with no run.")
