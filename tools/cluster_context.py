"""Context parallelism in tools/clusters.py: what it gives, and where it stops paying (docs/context_parallel.md)."""
from cluster_studies import Study, class_ms, number
from svg_chart import line_chart

PROMPTS, CACHE = "examples/qwen3-coder-480b-h200-cp8.yaml", "examples/deepseek-r1-h200-dcp8.yaml"
CHUNK = 8192  # SGLang's chunked_prefill_size on an H200
ARGS = "context_length: 140000"
CP = f"deployment.engine_args={{{ARGS}, enable_prefill_cp: true, cp_strategy: zigzag}}"
PLANS = {"tp 8": ["deployment.parallel={tp: 8, ep: 8}", f"deployment.engine_args={{{ARGS}}}"],
         "tp 4, cp 2": ["deployment.parallel={tp: 4, cp: 2, ep: 8}", CP],
         "tp 2, cp 4": ["deployment.parallel={tp: 2, cp: 4, ep: 8}", CP],
         "cp 8": ["deployment.parallel={cp: 8, ep: 8}", CP]}


def chunks(tokens):
    return [f"prefill {min(CHUNK, tokens - at)}@{at}" for at in range(0, tokens, CHUNK)]


def prompt_ms(bench, settings, tokens):
    """Device time of a prompt alone, chunk after chunk; of it collectives, attention."""
    costs = [bench.cost(PROMPTS, step, settings) for step in chunks(tokens)]
    return (sum(c["steps"][0]["device_us"] for c in costs) * 1e-3, sum(class_ms(c, "collective") for c in costs),
            sum(class_ms(c, "attention_prefill") for c in costs))


def one_prompt(tokens):
    return ("workload={generator: {requests: 1, arrivals: {process: fixed, rate: 1}, input: {distribution: fixed, "
            f"value: {tokens}}}, output: {{distribution: fixed, value: 16}}}}}}")


def prompts_dealt_out(bench):
    lengths = (512, 2048, 8192, 32768, 131072)
    rows, device = [], {}
    for name, settings in PLANS.items():
        times = {tokens: prompt_ms(bench, settings, tokens) for tokens in lengths}
        device[name] = {tokens: times[tokens][0] for tokens in lengths}
        run = bench.run(PROMPTS, [*settings, one_prompt(131072)])
        tokens = bench.cost(PROMPTS, "decode 1@131072", settings)["memory"]["kv_tokens"]
        rows.append([name, *(times[t][0] for t in lengths), 100 * times[131072][1] / times[131072][0],
                     100 * times[131072][2] / times[131072][0], run["ttft_ms"]["mean"], run["tpot_ms"]["mean"], tokens])
    base = device["tp 8"]
    gain = {name: {t: base[t] / ms[t] for t in lengths} for name, ms in device.items()}
    best = max(gain, key=lambda name: gain[name][131072])
    against = ", ".join(f"{gain['cp 8'][t]:.2f} times at {t}" for t in lengths)
    pays = [t for t in lengths if gain["cp 8"][t] > 1]
    return Study(
        "Long prompts: tensor or context parallelism (SGLang)",
        "Qwen3-Coder-480B in block FP8 on eight H200, experts shared out whole: the eight GPUs as one wide attention or as copies "
        f"that share a prompt's tokens. One prompt alone, in chunks of {CHUNK}; device time by its length.",
        f"orrery cost {PROMPTS} --step 'prefill {CHUNK}@122880' --set 'deployment.parallel={{tp: 8, ep: 8}}' …; orrery simulate {PROMPTS} --set workload=…",
        ["plan", *(f"{t} tokens, ms" for t in lengths), "collectives, % at 131072", "attention, %", "TTFT of 131072 tokens, ms",
         "TPOT behind it, ms", "KV tokens"], rows,
        [f"cp 8 against tp 8: {against}. "
         + (f"It pays from {min(pays)} tokens of those shown on." if pays else "It does not pay at any length shown."),
         f"At 131,072 tokens {best} is the quickest ({number(device[best][131072])} ms; tp 8: {number(base[131072])} ms).",
         f"The price is memory and decodes: cp 8 holds {rows[-1][-1] / rows[0][-1]:.2f} of tp 8's tokens, and its TPOT is "
         f"{rows[-1][-2] / rows[0][-2]:.2f} times tp 8's, for every rank reads the whole context."],
        "Compared with no run. Prefill graphs, on for tp alone, are off for cp. Gathers hide behind nothing here.",
        {"context_prompts.svg": line_chart("Device time of one prompt ÷ that of tp 8 (Qwen3-Coder-480B, 8 H200)", "prompt tokens",
                                           "ratio", {name: [(t, ms[t] / base[t]) for t in lengths]
                                                     for name, ms in device.items()}, log_x=True)})


def more_gpus(bench):
    """One prompt on 1, 2, 4, 8 GPUs, as tensor-parallel ranks or as copies of attention."""
    rows, says = [], []
    for model, long in (("qwen3-32b", 32768), ("qwen3-30b-a3b", 32768), ("deepseek-v2-lite", 131072)):
        alone = {}
        for gpus in (1, 2, 4, 8):
            row = [model, gpus]
            for kind in ("tp", "cp"):
                args = f"context_length: {long + 1000}" + (", enable_prefill_cp: true, cp_strategy: zigzag" if kind == "cp" else "")
                plan = f"deployment={{hardware: h200, model: {model}, engine: sglang-0.5, parallel: {{{kind}: {gpus}}}, engine_args: {{{args}}}}}"
                times = [bench.run(PROMPTS, [plan, one_prompt(t)])["ttft_ms"]["mean"] for t in (1024, long)]
                tokens = bench.cost(PROMPTS, "decode 1@1024", [plan])["memory"]["kv_tokens"]
                alone.setdefault(kind, times[1])
                row += [*times, alone[kind] / times[1], tokens]
            rows.append(row)
        eight = rows[-1]
        says.append(f"{model}, {long:,} tokens on eight GPUs: {eight[4]:.1f} times as fast as on one with tp, {eight[8]:.1f} times with cp; "
                    f"1,024 tokens take {number(eight[2])} ms and {number(eight[6])} ms.")
    return Study(
        "A prompt on more GPUs: tp or cp (SGLang)",
        "One prompt alone on a server with 1 to 8 H200: of 1,024 tokens, and of 32,768 (deepseek-v2-lite: 131,072).",
        f"orrery simulate {PROMPTS} --set 'deployment={{hardware: h200, model: qwen3-32b, engine: sglang-0.5, parallel: {{cp: 8}}, engine_args: …}}' --set workload=…",
        ["model", "GPUs", "tp: TTFT short, ms", "tp: long, ms", "times as fast", "tp: KV tokens", "cp: TTFT short, ms", "cp: long, ms",
         "times as fast", "cp: KV tokens"], rows,
        [*says, "Short prompts wait for the host: without prefill graphs it launches every kernel and collective by itself, however many ranks there "
         "are. Inside a node copies of attention are no better than a split one where heads can be split; what they change is the cache: a latent is "
         "kept whole either way, keys and values of heads are not."],
        "Compared with no run; SGLang's host terms are vLLM's where they were not measured.")


def over_nodes(bench):
    fabric = ["deployment.topology={preset: hopper-8, nodes: 2, nics_per_node: 8, nic_gbps: 400}", "deployment.quantization=fp8-channel"]
    split = f"{ARGS}, enable_prefill_cp: true, cp_strategy: zigzag"
    plans = {"tp 16": ("{tp: 16}", ARGS), "tp 8, cp 2": ("{tp: 8, cp: 2}", split),
             "tp 8, cp 2, moe_dp_size 2": ("{tp: 8, cp: 2}", split + ", moe_dp_size: 2"), "tp 2, cp 8": ("{tp: 2, cp: 8}", split)}
    steps, rows = ("prefill 8192@0", "prefill 8192@122880", "decode 8@131072"), []
    for name, (plan, args) in plans.items():
        costs = [bench.cost(PROMPTS, step, [*fabric, f"deployment.parallel={plan}", f"deployment.engine_args={{{args}}}"]) for step in steps]
        rows.append([name, *(c["steps"][0]["device_us"] * 1e-3 for c in costs), class_ms(costs[1], "collective"), costs[0]["memory"]["kv_tokens"]])
    best = min(rows, key=lambda row: row[2])
    return Study(
        "Long prompts over two nodes (SGLang)",
        "The same model with per-channel FP8 on two nodes of eight H200, one NIC of 400 Gb/s a GPU: what crosses the network in a step of a long prompt.",
        f"orrery cost {PROMPTS} --step 'prefill 8192@122880' --set 'deployment.topology={{preset: hopper-8, nodes: 2, nics_per_node: 8, nic_gbps: 400}}' …",
        ["plan", *(f"device, {step}, ms" for step in steps), "collectives at 122880, ms", "KV tokens"], rows,
        [f"Least device time at 122,880 cached tokens: {best[0]} ({number(best[2])} ms; tp 16: {number(rows[0][2])} ms). With the experts in each copy (moe_dp_size) "
         "keys and values alone cross the network in a layer; gathering rows for experts that are spread over both nodes costs more than tp 16's all-reduces."],
        "Compared with no run; between nodes collectives are NCCL's model of itself, corrected by tables (collectives_across.md).")


def cache_split(bench):
    rows, tpot = [], {}
    for ranks in (1, 2, 4, 8):
        settings = [f"deployment.engine_args={{decode_context_parallel_size: {ranks}, max_model_len: 140000}}"]
        costs = {step: bench.cost(CACHE, step, settings) for step in
                 ("decode 8@1024", "decode 8@131072", "decode 64@16384", "prefill 8192@57344")}
        ms = {step: cost["steps"][0]["device_us"] * 1e-3 for step, cost in costs.items()}
        run = bench.run(CACHE, settings)
        tpot[ranks] = ms
        rows.append([ranks, costs["decode 8@1024"]["memory"]["kv_tokens"], *ms.values(), run["ttft_ms"]["p50"], run["tpot_ms"]["mean"],
                     run["preemptions"]])
    first, last = rows[0], rows[-1]
    return Study(
        "Long contexts: the KV cache split over GPUs (vLLM)",
        "DeepSeek-R1 on eight H200, tp 8, its latents kept eight times or shared out: `decode_context_parallel_size`. Device time of steps, "
        "then 60 requests of 65,536 tokens, 0.3 a second.",
        f"orrery simulate {CACHE} --set 'deployment.engine_args={{decode_context_parallel_size: 2, max_model_len: 140000}}'",
        ["ranks", "KV tokens", *(f"{step}, ms" for step in tpot[1]), "TTFT p50, ms", "TPOT mean, ms", "preemptions"], rows,
        [f"Eight ranks hold {last[1] / first[1]:.1f} times the tokens. Decodes of short contexts pay for three collectives a layer "
         f"({number(first[2])} → {number(last[2])} ms), long contexts are read in parts ({number(first[3])} → {number(last[3])} ms).",
         f"A prompt's later chunks gather what is cached: {number(first[5])} → {number(last[5])} ms."],
        "Compared with no run. The tables of absorbed attention end at 128 heads; what NCCL's small collectives take inside graphs was timed "
        "for other groups (reports/results/nccl_groups_h200.txt).")


STUDIES = [prompts_dealt_out, more_gpus, over_nodes, cache_split]
