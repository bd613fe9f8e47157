#!/usr/bin/env python3
"""Times vLLM's Triton fused expert layer, whole and as one rank of an expert-parallel group holds it.

  vllm_expert_timing.py OUT.csv SECONDS

On a GPU machine with vLLM on PYTHONPATH (../shared/examples/vllm_on_gpu packs it). Appends rows of
reports/cases/h100_vllm_0_24_experts/layers.csv until the budget is spent; a combination that fails is printed and skipped.
"""
import json
import os
import sys
import time
from contextlib import nullcontext

import torch
import vllm.model_executor.layers.fused_moe as fused_moe
from vllm.model_executor.layers.fused_moe import override_config
from vllm.model_executor.layers.fused_moe.config import fp8_w8a8_moe_quant_config
from vllm.model_executor.layers.fused_moe.fused_moe import fused_experts

HIDDEN, EXPERTS, PER_TOKEN = 2048, 128, 8
TOKENS = [1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192]
PLAN = [  # experts here, width, FP8 blocks, tile file; most wanted first
    (64, 768, True, "default"), (64, 768, True, "tuned"), (128, 768, True, "tuned"), (64, 768, False, "default"),
    (128, 768, False, "default"), (128, 768, True, "default"), (64, 768, False, "tuned"), (128, 768, False, "tuned"),
    (128, 384, True, "tuned"), (128, 384, True, "default")]


def tuned_tiles(width, fp8):
    suffix = ",dtype=fp8_w8a8,block_shape=[128,128]" if fp8 else ""
    name = f"E={EXPERTS},N={width},device_name=NVIDIA_H200{suffix}.json"
    with open(os.path.join(os.path.dirname(fused_moe.__file__), "configs", name), encoding="utf-8") as f:
        tiles = json.load(f)
    tiles.pop("triton_version", None)
    return {int(tokens): tile for tokens, tile in tiles.items()}


class Layer:
    def __init__(self, local, width, fp8):
        self.local, self.width, self.fp8 = local, width, fp8
        self.w1, self.w2 = self.weights(2 * width, HIDDEN), self.weights(HIDDEN, width)
        self.quantization = self.map = None
        if fp8:
            scales = lambda n, k: torch.full((local, n // 128, k // 128), .02 / 60, device="cuda")  # noqa: E731
            self.quantization = fp8_w8a8_moe_quant_config(
                w1_scale=scales(2 * width, HIDDEN), w2_scale=scales(HIDDEN, width), block_shape=[128, 128])
        if local != EXPERTS:
            self.map = torch.full((EXPERTS,), -1, dtype=torch.int32, device="cuda")
            self.map[:local] = torch.arange(local, dtype=torch.int32, device="cuda")

    def weights(self, n, k):
        out = torch.empty(self.local, n, k, device="cuda", dtype=torch.float8_e4m3fn if self.fp8 else torch.bfloat16)
        for expert in out:
            values = torch.randn(n, k, device="cuda")
            expert.copy_((values * 60).clamp_(-440, 440) if self.fp8 else values * .02)
        return out

    def __call__(self, x, weights, ids):
        return fused_experts(x, self.w1, self.w2, weights, ids, global_num_experts=EXPERTS, expert_map=self.map,
                             quant_config=self.quantization)


def routed(tokens):
    x = torch.randn(tokens, HIDDEN, device="cuda", dtype=torch.bfloat16)
    weights, ids = torch.topk(torch.softmax(torch.randn(tokens, EXPERTS, device="cuda"), -1), PER_TOKEN)
    return x, (weights / weights.sum(-1, keepdim=True)).float(), ids.to(torch.int32)


def time_layer(layer, tokens, tile, calls=6, repeats=12):
    """Median microseconds of one call, rows and experts with rows on this GPU (means over the routings)."""
    inputs = [routed(tokens) for _ in range(calls)]
    with override_config(tile) if tile else nullcontext():
        for arguments in inputs[:2]:  # compiles
            layer(*arguments)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for arguments in inputs:
                layer(*arguments)
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / calls)
    here = [ids[ids < layer.local] for _, _, ids in inputs]
    return sorted(times)[repeats // 2], sum(len(h) for h in here) / calls, sum(len(set(h.tolist())) for h in here) / calls


def main():
    start, budget = time.time(), float(sys.argv[2])
    torch.manual_seed(1)
    layer = None
    with open(sys.argv[1], "a", encoding="utf-8") as out:
        for local, width, fp8, config in PLAN:
            if time.time() - start > budget:
                print("SKIP", local, width, fp8, config)
                continue
            try:
                if layer is None or (layer.local, layer.width, layer.fp8) != (local, width, fp8):
                    layer = None
                    torch.cuda.empty_cache()
                    layer = Layer(local, width, fp8)
                tiles = tuned_tiles(width, fp8) if config == "tuned" else None
                for tokens in TOKENS:
                    tile = tiles[min(tiles, key=lambda known: abs(known - tokens))] if tiles else None
                    us, rows, distinct = time_layer(layer, tokens, tile)
                    out.write(f"{local},{EXPERTS},{width},{'fp8-block' if fp8 else 'bf16'},{config},{tokens},{us:.2f},{rows:.1f},{distinct:.1f}\n")
                    out.flush()
                print("DONE", local, width, fp8, config, flush=True)
            except Exception as error:  # a kernel that does not compile must not end the others
                print("FAIL", local, width, fp8, config, type(error).__name__, str(error)[:300], flush=True)


if __name__ == "__main__":
    main()
