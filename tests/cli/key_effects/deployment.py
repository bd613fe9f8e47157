"""Keys of `deployment`, its pools and the fabric."""
from .effects import Named, Refused, becomes, down, moves, plus, times, up

DECODE = "cost[decode 64@1024]:"
PREFILL = "cost[prefill 4096@0]:"
TRANSFER = "transfers.ttft_parts_ms.transfer.mean"
# 63 blocks of 16 tokens, each 36 layers x 2 x 8 heads x 128 values x 2 bytes, in ms over a link of 1 GB/s.
ONE_PROMPT = 63 * 16 * (36 * 2 * 8 * 128 * 2) * 1e-6
# The only link there is, 1 GB/s, while the prompt is on it: from 31 to 180 ms.
CUT = "deployment.topology=$DATA/slow.yaml; faults=[{kind: link, target: [g0, g1], at_s: 0.1, for_s: 0.001}]"

EFFECTS = [
    down("deployment.hardware", "plain", "deployment.hardware=h100", "cost:memory.kv_tokens"),
    up("deployment.model", "plain", "deployment.model=qwen3-14b", "tpot_ms.mean"),
    up("deployment.engine", "plain", "deployment.engine=sglang-0.5", "itl_ms.p99"),
    # One byte a weight instead of two, of all but embedding, head and norms.
    down("deployment.quantization", "plain", "deployment.quantization=fp8-block", "cost:memory.weights_bytes"),
    # 36 layers x 2 x 8 heads x 128 values, one byte each instead of two.
    becomes("deployment.kv_cache_dtype", "plain", "deployment.kv_cache_dtype=fp8",
            "cost:memory.kv_bytes_per_token", 36 * 2 * 8 * 128),
    down("deployment.parallel.tp", "plain", "deployment.parallel={tp: 2}", "tpot_ms.mean"),
    becomes("deployment.parallel.pp", "plain", "deployment.parallel={pp: 2}", "pipeline.stages", 2),
    becomes("deployment.parallel.pp", "plain", "deployment.parallel={dp: 2, pp: 2}", "gpus", 4,
            without="deployment.parallel={dp: 2}"),
    up("deployment.parallel.ep", "moe", "deployment.parallel={tp: 4, ep: 4}",
       "cost[prefill 4096@0]:class:grouped_gemm", without="deployment.parallel={tp: 4}"),
    # Two ranks of two GPUs beside four GPUs that split every expert: the busier half has more rows.
    up("deployment.parallel.ep", "moe", "deployment.parallel={tp: 4, ep: 2}",
       "cost[prefill 4096@0]:class:grouped_gemm",
       without="deployment.engine=sglang-0.5; deployment.parallel={tp: 4}"),
    moves("deployment.parallel.dp", "apart", "deployment.pools[1].parallel={dp: 2, ep: 2}", "tpot_ms.mean",
          without="; ".join(f"deployment.pools[{i}].model=qwen3-30b-a3b; deployment.pools[{i}].engine=tensorrt-llm-1.2"
                            for i in (0, 1)) + "; deployment.pools[0].engine_args={disable_overlap_scheduler: true}; "
          "deployment.pools[1].parallel={tp: 2, ep: 2}"),
    down("deployment.parallel.dp", "moe", "deployment.parallel={dp: 4, ep: 4}", "cost:memory.kv_tokens"),
    down("deployment.parallel.cp", "sgl", "deployment.parallel={cp: 4}", "cost[prefill 8192@0]:device_us",
         without="deployment.engine_args={enable_prefill_cp: true, cp_strategy: zigzag}; deployment.parallel={cp: 1}"),
    down("deployment.kernels", "plain", "deployment.kernels=roofline", DECODE + "device_us"),
    # 128 tokens over 64 experts of a rank: 8 rows each, of which a default tile of 64 rows computes 64.
    down("deployment.tiles", "amd-experts", "deployment.tiles=tuned", "cost[decode 128@1024]:class:grouped_gemm",
         without="deployment.tiles=default"),
    becomes("deployment.replicas", "plain", "deployment.replicas=3", "instances", 3),
    up("deployment.router", "sessions", "deployment.replicas=3; deployment.router=prefix-aware",
       "prefix_cache_hit_rate", without="deployment.replicas=3; deployment.router=round-robin"),
    up("deployment.router.policy", "replicas-sessions", "deployment.router.policy=prefix-aware",
       "prefix_cache_hit_rate", without="deployment.router={policy: round-robin}"),
    # A burst is over before the first report: everybody goes to the instance that looked empty.
    up("deployment.router.period_ms", "replicas", "deployment.router.period_ms=1000", "queue_ms.mean",
       without="deployment.router={policy: least-loaded}"),
    up("deployment.router.delay_ms", "replicas", "deployment.router.delay_ms=1000", "queue_ms.mean",
       without="deployment.router={policy: least-loaded}"),
    moves("deployment.router.load", "replicas-sessions", "deployment.router.load=requests", "prefix_cache_hit_rate",
          without="deployment.router={policy: kv-aware}"),
    up("deployment.router.overlap_weight", "replicas-sessions", "deployment.router.overlap_weight=16",
       "prefix_cache_hit_rate", without="deployment.router={policy: kv-aware, overlap_weight: 0}"),
    # One request waits for its batch to be over, and for nothing else.
    plus("deployment.router.batch_ms", "one", "deployment.router.batch_ms=50", "ttft_ms.mean", 40,
         without="deployment.replicas=2; deployment.router={policy: shortest-prompt-first, batch_ms: 10}"),
    # 60 requests, and the first pool is told to take 1,000 in the time of one.
    becomes("deployment.router.speed", "mixed", "deployment.pools[0].router.speed={a: 1000, b: 1}; "
            "deployment.pools[1].router.speed={a: 1000, b: 1}", "last_pool_peak", 0,
            without="deployment.pools[0].router={policy: least-loaded}; "
            "deployment.pools[1].router={policy: least-loaded}"),
    up("deployment.first_request_effects", "moe", "deployment.first_request_effects=true", "first_use.steps"),

    down("deployment.speculation.method", "plain",
         "deployment.speculation={method: eagle, tokens: 2, acceptance: 0.8}", "tpot_ms.mean"),
    times("deployment.speculation.tokens", "plain", "deployment.speculation.tokens=4", "speculation.tokens", 2,
          without="deployment.speculation={method: eagle, tokens: 2, acceptance: 0.8}"),
    becomes("deployment.speculation.acceptance", "plain", "deployment.speculation.acceptance=1",
            "speculation.acceptance_rate", 1,
            without="deployment.speculation={method: eagle, tokens: 2, acceptance: 0.5}"),
    becomes("deployment.speculation.acceptance_log", "one",
            "deployment.speculation={method: eagle, tokens: 3, acceptance_log: $DATA/accepted.csv}",
            "speculation.acceptance_rate", 1,
            without="deployment.speculation={method: eagle, tokens: 3, acceptance: 0.2}"),
    up("deployment.speculation.match_rate", "plain", "deployment.speculation.match_rate=0.9", "speculation.drafts",
       without="deployment.speculation={method: ngram, tokens: 3, acceptance: 0.5, match_rate: 0.3}"),
    up("deployment.speculation.draft.kind", "plain", "deployment.speculation.draft.kind=eagle3",
       DECODE + "device_us",
       without="deployment.speculation={method: eagle, tokens: 2, acceptance: 0.8, draft: {kind: eagle}}"),
    up("deployment.speculation.draft.layers", "plain", "deployment.speculation.draft.layers=3",
       DECODE + "device_us",
       without="deployment.speculation={method: eagle, tokens: 2, acceptance: 0.8, draft: {layers: 1}}"),
    up("deployment.speculation.draft.intermediate", "plain", "deployment.speculation.draft.intermediate=24576",
       "cost:memory.weights_bytes",
       without="deployment.speculation={method: eagle, tokens: 2, acceptance: 0.8, draft: {intermediate: 12288}}"),
    down("deployment.speculation.draft.vocabulary", "plain", "deployment.speculation.draft.vocabulary=32000",
         DECODE + "device_us",
         without="deployment.speculation={method: eagle, tokens: 2, acceptance: 0.8, draft: {kind: eagle3}}"),
    moves("deployment.speculation.one_model", "trt", "deployment.speculation.one_model=false", "tpot_ms.mean",
          without="deployment.speculation={method: eagle, tokens: 2, acceptance: 0.8, "
          "draft: {kind: eagle3, intermediate: 12288}}"),
    down("deployment.speculation.max_concurrency", "trt", "deployment.speculation.max_concurrency=2",
         "speculation.drafts", without="deployment.speculation={method: eagle, tokens: 2, acceptance: 0.8, "
         "one_model: false, draft: {kind: eagle3}}"),

    # No more than 48 sequences have a graph.
    up("deployment.speculation.branches", "sgl", "deployment.speculation.branches=4", "cost[decode 32@1024]:device_us",
       without="deployment.speculation={method: eagle, tokens: 3, acceptance: 0.8, branches: 2, verified: 6}"),
    up("deployment.speculation.verified", "sgl", "deployment.speculation.verified=10", "cost[decode 32@1024]:device_us",
       without="deployment.speculation={method: eagle, tokens: 3, acceptance: 0.8, branches: 4, verified: 6}"),
    up("deployment.speculation.siblings", "sgl", "deployment.speculation.siblings=0.6",
       "speculation.mean_accepted_length", without="deployment.speculation={method: eagle, tokens: 3, "
       "acceptance: 0.6, branches: 4, verified: 8, siblings: 0}"),
    # Behind a long suffix a chain of 11, behind one token nine branches and two tokens on a path.
    up("deployment.speculation.match_length", "sgl", "deployment.speculation.match_length=17",
       "speculation.mean_accepted_length", without="deployment.speculation={method: ngram, acceptance: 0.9, "
       "match_rate: 0.9, match_length: 1, siblings: [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]}"),

    up("deployment.experts.popularity.zipf", "zipf", "deployment.experts.popularity={zipf: 1.2}",
       PREFILL + "class:grouped_gemm"),
    up("deployment.experts.popularity.zipf", "sgl-a2a", "deployment.experts={popularity: {zipf: 1.2}}",
       "cost[decode 256@1024]:class:collective"),
    down("deployment.experts.eplb.policy", "sgl-a2a", "deployment.experts.eplb={policy: static}",
         "cost[decode 256@1024]:class:collective", without="deployment.experts={popularity: {zipf: 1.2}}"),
    down("deployment.experts.popularity.dirichlet", "zipf", "deployment.experts.popularity={dirichlet: 20}",
         PREFILL + "class:grouped_gemm"),
    up("deployment.experts.popularity.file", "zipf", "deployment.experts.popularity={file: $DATA/counts.csv}",
       PREFILL + "class:grouped_gemm"),
    up("deployment.experts.routing", "grouped", "deployment.experts={routing: expected}",
       "cost[decode 64@1024]:class:grouped_gemm"),
    moves("deployment.experts.layer_correlation", "zipf", "deployment.experts.layer_correlation=1",
          PREFILL + "class:grouped_gemm"),
    moves("deployment.experts.drift.every_s", "zipf", "deployment.experts.drift={every_s: 0.5}", "balancedness"),
    moves("deployment.experts.drift.steps", "zipf", "deployment.experts.drift.steps=4", "balancedness",
          without="deployment.experts.drift={every_s: 0.5}"),
    moves("deployment.experts.routing", "zipf", "deployment.experts.routing=sampled", "ttft_ms.mean"),
    up("deployment.experts.eplb.policy", "zipf", "deployment.experts.eplb={policy: static}", "balancedness"),
    up("deployment.experts.eplb.redundant", "zipf", "deployment.experts.eplb.redundant=32", "balancedness",
       without="deployment.experts.eplb={policy: static}"),
    up("deployment.experts.eplb.every_steps", "zipf", "deployment.experts.eplb.every_steps=40", "experts.rebalances",
       without="deployment.experts.drift={every_s: 0.5}; "
       "deployment.experts.eplb={policy: periodic, every_steps: 400, window_steps: 40}"),
    moves("deployment.experts.eplb.window_steps", "zipf", "deployment.experts.eplb.window_steps=5", "balancedness",
          without="deployment.experts.drift={every_s: 0.5}; "
          "deployment.experts.eplb={policy: periodic, every_steps: 40, window_steps: 40}"),
    up("deployment.experts.eplb.threshold", "zipf", "deployment.experts.eplb.threshold=1", "experts.rebalances",
       without="deployment.experts.eplb={policy: threshold, every_steps: 40, window_steps: 40, threshold: 0.1}"),
    down("deployment.experts.eplb.overlapped", "zipf", "deployment.experts.eplb.overlapped=true", "experts.stall_s",
         without="deployment.experts.drift={every_s: 0.5}; "
         "deployment.experts.eplb={policy: periodic, every_steps: 40, window_steps: 40, overlapped: false}"),

    moves("deployment.experts.eplb.nodes", "grouped", "deployment.experts.eplb.nodes=4", "balancedness",
          without="deployment.experts={popularity: {zipf: 0.8}, eplb: {policy: static, nodes: 1, redundant: 32}}"),

    Named("deployment.pools.name", "a pool's name in outputs"),
    becomes("deployment.pools", "plain", "deployment={pools: [{name: a, hardware: h200, model: qwen3-8b, "
            "engine: vllm-0.24}, {name: b, hardware: h200, model: qwen3-8b, engine: vllm-0.24}]}", "pools", 2),
    up("deployment.pools.role", "mixed",
       "deployment.topology={preset: hopper-8}; deployment.pools[0].role=prefill; deployment.pools[1].role=decode",
       "ttft_ms.mean"),

    up("deployment.topology", "apart", "deployment.topology=$DATA/slow.yaml",
       TRANSFER),
    up("deployment.topology.preset", "linked", "deployment.topology.preset=l40s-8; "
       "deployment.pools[0].hardware=l40s; deployment.pools[1].hardware=l40s",
       TRANSFER),
    Refused("deployment.topology.nodes", "nodes", "deployment.topology.nodes=1", "has 8 GPUs, too few"),
    down("deployment.topology.nics_per_node", "nodes", "deployment.topology.nics_per_node=8",
         TRANSFER, without="deployment.topology.nics_per_node=1"),
    # Eight NICs, one a rank: of 25 GB/s and then of 50.
    plus("deployment.topology.nic_gbps", "one-nodes", "deployment.topology.nic_gbps=400", TRANSFER,
         -ONE_PROMPT / 8 / 50, 1e-5, without="deployment.topology.nic_gbps=200"),
    # From NIC to leaf and from leaf to NIC, 0.9 us each instead of 0.45.
    plus("deployment.topology.network", "one-nodes", "deployment.topology.network=roce", TRANSFER, 2 * 0.45e-3, 1e-6),
    up("deployment.topology.oversubscription", "nodes", "deployment.topology.oversubscription=16",
       TRANSFER,
       without="deployment.topology.nodes_per_leaf=1; deployment.topology.spines=1"),
    up("deployment.topology.nodes_per_leaf", "nodes", "deployment.topology.nodes_per_leaf=1",
       TRANSFER),
    moves("deployment.topology.spines", "nodes", "deployment.topology.spines=1",
          TRANSFER,
          without="deployment.topology.nodes_per_leaf=1; deployment.topology.oversubscription=4"),
    Refused("deployment.topology.gpus_per_node", "apart", "deployment.topology.gpus_per_node=4", "has 8"),

    # What is not hidden is the last of 36 layers, over a link of 450 GB/s.
    plus("deployment.pd.transfer", "one-linked", "deployment.pd.transfer=layerwise", TRANSFER,
         -35 / 36 * ONE_PROMPT / 450, 1e-4),
    # 2 ms, and 3.6 us for each block of each layer, keys and values apart; 10 us.
    becomes("deployment.pd.connector", "one-apart", "deployment.pd.connector=nixl", TRANSFER,
            2 + 63 * 36 * 2 * 3.6e-3 + 0.010, without="deployment.pd.connector=moriio"),
    becomes("deployment.pd.local_below", "one-apart", "deployment.pd.local_below=1001", "transfers.pulls", 0,
            without="deployment.pd.local_below=1000"),
    becomes("deployment.pd.retry", "one-apart", "deployment.pd.retry=0", "requests.failed", 1, without=CUT),
    becomes("deployment.pd.kv_load_failure_policy", "one-apart", "deployment.pd.kv_load_failure_policy=recompute",
            "requests.completed", 1, without="deployment.pd.retry=0; " + CUT),
]
