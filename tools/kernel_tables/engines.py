"""Which published table stands for which kernels of which engine: data, one record a set.

Versions are those that the tables were collected on. A set is named after the release that its users run; what the
distance means is `versions` of tools/kernel_tables/leave_out.py.
"""
from dataclasses import dataclass, field

# Not "fp8": 0.24.0's (FlashInfer's CUTLASS experts through ModelOpt) takes 4 to 6 times what 0.19.0, 0.22.0 and TensorRT-LLM
# take for the same layers, nearly the same from 64 to 1,024 tokens: kernels without their tuning, not an engine's.
# Weights of four bits, on Hopper: OpenAI's Triton kernels for gpt-oss, Marlin for INT4 in groups (Kimi); SGLang's mxfp4 table
# takes as long as bf16 weights would at every size, so those kernels are not the ones that serve gpt-oss: left out.
VLLM_EXPERTS = {"bfloat16": "vllm_unquantizedfusedmoe_triton_tritonexperts", "fp8_block": "vllm_fp8moe_triton_tritonexperts",
                "w4a16_mxfp4": "vllm_gptossmxfp4moe_triton_oaitritonmxfp4expertsmonolithic",
                "int4_wo": "vllm_compressedtensorswna16marlinmoe_marlin_marlinexperts"}
SGLANG_EXPERTS = {"bfloat16": "sglang_fused_moe_triton", "fp8_block": "sglang_fused_moe_triton", "int4_wo": "sglang_marlin_moe"}
# What a layer's timing holds, read in the collectors at the commit of the data: router logits go in, so the choice of experts
# is inside, the router's product and shared experts are not (collector/vllm/collect_moe.py `run_single_iteration`: FusedMoE's
# module, 0.24.0; collector/trtllm/collect_moe.py `run_forward_pass`: moe.forward; collector/sglang/collect_moe.py: `run_op` calls
# select_experts since February 2026, with three copies of what it gives that no engine makes, and `_benchmark_framework_quantized_moe`
# its TopK layer).
CHOICE_INSIDE = {"vllm", "sglang", "trtllm"}  # by prefix: all formats
EXPERT_FORMATS = {"bfloat16": "bf16", "fp8_block": "fp8-block", "fp8": "fp8-tensor", "w4a16_mxfp4": "mxfp4", "int4_wo": "w4a16"}
MIB = 1 << 20


@dataclass
class Gemm:
    source: str                    # gemm_dtype of the table
    formats: list                  # formats of ours that this kernel serves
    kernel: str
    quantises: str = ""            # the timing holds the quantisation of the input: "static" or "dynamic"


@dataclass
class Engine:
    name: str                      # of the set
    prefix: str                    # of the published files
    versions: dict                 # operator group -> version; (part, group) wins
    gemm: list
    experts: dict                  # moe_dtype -> kernel_source; None = the only one
    all_reduce: str                # kernel_source of the all-reduce in graphs
    custom_below: dict             # ranks -> bytes from which NCCL takes over; none = never
    before: dict = field(default_factory=dict)  # group -> earlier version, to see what versions change
    thin: bool = True
    latent: dict = field(default_factory=dict)  # latent attention: versions of decode, prefill, absorb; before = another
    repeats: list = field(default_factory=list)  # other collections of the same dense kernels: the median of all is taken
    parts: list = field(default_factory=list)  # empty: all
    base: str = ""                 # another set, whose figures stand but for experts or collectives

    def version(self, part, group):
        keys = ((part, group), (part, "all"), group, "all")
        return next(self.versions[key] for key in keys if key in self.versions)

    def table(self, stem, part, group):
        return f"{stem}__{self.prefix}-{self.version(part, group)}"


ENGINES = {
    # As tools/fit_kernel_tables.py made it first; block products, output layer and small kernels are our own profile's.
    "vllm-0.24": Engine(
        "vllm-0.24", "vllm", {"all": "0.24.0"},
        [Gemm("bfloat16", ["bf16"], "torch.linear"),
         Gemm("fp8", ["fp8-tensor", "fp8-channel"], "CutlassFP8ScaledMM")],
        VLLM_EXPERTS, "vLLM_custom_graph", {2: 8 * MIB, 4: 8 * MIB, 8: 256 << 10}, thin=False,
        latent={"decode": "0.24.0", "prefill": "0.24.0", "absorb": "0.24.0", "before": {"decode": "0.19.0", "prefill": "0.19.0"}, "start": "0.5.14"}),
    # The collector times products with the quantisation of their input, in a graph (ai-dynamo/aiconfigurator
    # collector/sglang/collect_gemm.py). SGLang's custom all-reduce takes buffers up to 8 MiB.
    "sglang-0.5": Engine(
        "sglang-0.5", "sglang", {"all": "0.5.14"},
        [Gemm("bfloat16", ["bf16"], "torch.linear"),
         Gemm("fp8", ["fp8-tensor", "fp8-channel"], "sgl_kernel.fp8_scaled_mm", "static"),
         Gemm("fp8_block", ["fp8-block"], "DeepGEMM", "static")],
        SGLANG_EXPERTS,
        "SGLang_CustomAllReduce_graph", {2: 8 * MIB, 4: 8 * MIB, 8: 8 * MIB},
        before={"gemm": "0.5.10", "attention": "0.5.10", "experts": "0.5.10", "collectives": "0.5.10"},
        latent={"decode": "0.5.14", "prefill": "0.5.14", "absorb": "0.5.14", "before": {"decode": "0.5.10", "prefill": "0.5.10"}},
        repeats=["0.5.9", "0.5.10"]),
    # Of engine_profiles/sglang-0.5.9.yaml. Its Triton experts of DeepSeek take 1.3 to 1.9 times 0.5.14's up to 64 tokens.
    "sglang-0.5.9": Engine(
        "sglang-0.5.9", "sglang", {"all": "0.5.9"},
        [Gemm("bfloat16", ["bf16"], "torch.linear"),
         Gemm("fp8", ["fp8-tensor", "fp8-channel"], "sgl_kernel.fp8_scaled_mm", "static"),
         Gemm("fp8_block", ["fp8-block"], "DeepGEMM", "static")],
        SGLANG_EXPERTS,
        "SGLang_CustomAllReduce_graph", {2: 8 * MIB, 4: 8 * MIB, 8: 8 * MIB},
        before={"gemm": "0.5.10", "attention": "0.5.10", "experts": "0.5.10", "collectives": "0.5.10"},
        latent={"decode": "0.5.9", "prefill": "0.5.9", "absorb": "0.5.9", "before": {"decode": "0.5.10", "prefill": "0.5.10"}},
        repeats=["0.5.10"], parts=["h100", "h200"]),
    # FP8 products are timed with the dynamic quantisation of their input (collector/trtllm/collect_gemm.py); a
    # checkpoint with scales for its inputs has the static one, which is an operator of its own here. Decode attention
    # of 1.2.0rc5 and 1.3.0rc10 reads keys faster than memory can (up to 1.6 times the data sheet at 8 sequences of
    # 65,536): collected on a cache that was too small; 1.3.0rc20 does not.
    "tensorrt-llm-1.2": Engine(
        "tensorrt-llm-1.2", "trtllm",
        {"all": "1.2.0rc5", "decode": "1.3.0rc20", ("l40s", "all"): "1.3.0rc20", ("h20", "all"): "1.3.0rc20"},
        [Gemm("bfloat16", ["bf16"], "torch_flow"),
         Gemm("fp8", ["fp8-tensor"], "torch_flow", "dynamic"),
         Gemm("fp8_block", ["fp8-block"], "torch_flow", "static")],
        {"bfloat16": None, "fp8": None, "fp8_block": None, "w4a16_mxfp4": None}, "TRTLLM", {},
        before={"gemm": "1.3.0rc10", "attention": "1.3.0rc10", "experts": "1.3.0rc10", "collectives": "1.3.0rc10"},
        # Decodes as the set's others; 1.2.0rc5's start 11 to 13 us later (25 to 28 us for 13 to 15), which is in the error.
        latent={"decode": "1.3.0rc20", "prefill": "1.2.0rc5", "absorb": "1.2.0rc5", "before": {"decode": "1.2.0rc5", "prefill": "1.3.0rc10"}}),
    # Of engine_profiles/tensorrt-llm-1.0.yaml: all but its all-reduces. Those of 1.0 take the kernel with one step to 128 tokens and NCCL
    # above (NVIDIA/TensorRT-LLM pull request 5432, July 2025); which is best by size came later (7870: a table, with which 1.2.0rc5 was
    # timed; 8531: tuned at the start). Where one step is best, 1.3.0rc10's timings are that kernel's; 1.2.0rc5's are two to three
    # times as long for four GPUs from 64 KiB on. 128 tokens are 1 to 2 MiB.
    "tensorrt-llm-1.0": Engine(
        "tensorrt-llm-1.0", "trtllm", {"all": "1.3.0rc10"}, [], {}, "TRTLLM", dict.fromkeys((2, 4, 8), 3 << 19),
        parts=["h100", "h200"], base="tensorrt-llm-1.2"),
    # Of engine_profiles/vllm-0.18-marlin.yaml: experts for mxfp4 by another kernel.
    "vllm-0.24-marlin": Engine(
        "vllm-0.24-marlin", "vllm", {"all": "0.24.0"}, [],
        {"w4a16_mxfp4": "vllm_compressedtensorsw4a4mxfp4moe_marlin_marlinexperts_situ_as_silu"}, "", {},
        parts=["h100", "h200"], base="vllm-0.24", thin=False),
    # Of engine_profiles/tensorrt-llm-1.0-triton.yaml: `moe_config.backend: TRITON` calls OpenAI's kernels (triton_kernels), as vLLM does.
    "tensorrt-llm-1.0-triton": Engine(
        "tensorrt-llm-1.0-triton", "trtllm", {"all": "1.3.0rc10", "experts": "1.2.0rc5"}, [],
        {"bfloat16": None, "fp8": None, "fp8_block": None}, "TRTLLM", dict.fromkeys((2, 4, 8), 3 << 19),
        parts=["h100", "h200"], base="tensorrt-llm-1.2"),
}
