#!/usr/bin/env python3
"""Kernels hold the instructions that they are there for: tools/check_instructions.py NVCC INCLUDE [SOURCE…] | --self-test

Translates kernels/*.cu to PTX and looks into every kernel of a file: one that fell back to another path, or whose arrays went to
local memory, would still compute the right thing.
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parent.parent
ENTRY = re.compile(r"\.entry (\w+)\(.*?(?=\.entry |\Z)", re.S)
COPIES = [r"cp\.async\.bulk\.tensor\.\dd\.shared::cluster\.global\.mbarrier", r"mbarrier\.try_wait\.parity"]
MMA_E4M3 = r"mma\.sync\.aligned\.m16n8k32\.row\.col\.f32\.e4m3\.e4m3\.f32"
FROM_REGISTERS = r"[^;]*\}, \{%r\d+, *%r\d+, *%r\d+, *%r\d+\}"  # the left operand of wgmma
E4M3_TO_F16 = r"cvt\.rn\.f16x2\.e4m3x2"
BF16X2 = r"fma\.rn\.bf16x2"
FLAGS = [r"st\.release\.sys\.global\.u32", r"ld\.acquire\.sys\.global\.u32"]
LINES = [r"st\.relaxed\.sys\.global\.v2\.u64", r"ld\.relaxed\.sys\.global\.v2\.u64"]
MMA_BF16 = r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.bf16\.bf16\.f32"
WGMMA_BF16 = r"wgmma\.mma_async\.sync\.aligned\.m64n%dk16\.f32\.bf16\.bf16"
WGMMA_F16 = r"wgmma\.mma_async\.sync\.aligned\.m64n%dk16\.f32\.f16\.f16"
PLAIN = [r"cp\.async\.cg\.shared\.global", r"ldmatrix\.sync\.aligned\.m8n8\.x4"]
# source, target, [(part of a kernel's name, or "" for all; what each of those must hold)]
EXPECTED = [
    ("block_gemm_wgmma", "90a", [("", COPIES + [r"wgmma\.mma_async\.sync\.aligned\.m64n\d+k32\.f32\.e4m3\.e4m3", r"stmatrix\.sync",
                                               r"\.multicast::cluster", r"barrier\.cluster\.wait"]),
                                 ("ShapeILb0ELi2ELi1ELi1ELi128E", [r"m64n128k32", r"setmaxnreg\.inc", r"setmaxnreg\.dec"]),
                                 ("ShapeILb0ELi2ELi2ELi1ELi128E", [r"m64n128k32", r"setmaxnreg\.inc", r"setmaxnreg\.dec"]),
                                 ("FormE1E", [r"ld\.acquire\.gpu\.global\.u32", r"(atom|red)\.\S*add\.u32"]),
                                 ("FormE2E", [r"griddepcontrol\.wait", r"griddepcontrol\.launch_dependents"]),
                                 ("ShapeILb1ELi1ELi1ELi1ELi16E", [r"m64n16k32", r"stmatrix.*\.trans", r"mapa\.shared::cluster",
                                                                                  r"st\.shared::cluster\.f32"])]),
    ("block_gemm", "89", [("", PLAIN + [MMA_E4M3])]),
    ("block_gemm", "90a", [("", PLAIN + [MMA_E4M3])]),
    ("grouped_gemm_wgmma", "90a", [("", COPIES + [r"wgmma\.mma_async"]), ("ShapeILb1E", [r"k32\.f32\.e4m3\.e4m3"]),
                                   ("ShapeILb0E", [r"k16\.f32\.bf16\.bf16"])]),
    ("w4_gemm_wgmma", "90a", [("", COPIES + [r"cp\.async\.bulk\.shared::cluster\.global", r"stmatrix.*\.trans"]),
                              ("ShapeILb0E", [r"k32\.f32\.e4m3\.e4m3" + FROM_REGISTERS]), ("ShapeILb1E", [BF16X2]),
                              ("ShapeILb1ELi32E", [r"k16\.f32\.bf16\.bf16" + FROM_REGISTERS]),
                              ("ShapeILb1ELi128E", [r"k16\.f32\.bf16\.bf16" + FROM_REGISTERS, r"setmaxnreg\.inc"]),
                              ("ShapeILb1ELi8E", [r"m16n8k16\S*\.bf16\.bf16", r"ldmatrix\.sync\.aligned\.m8n8\.x4"])]),
    ("w4_gemm", "89", [("w4_gemm_kernel", PLAIN), ("ShapeILb0E", [MMA_E4M3]), ("ShapeILb1E", [r"m16n8k16\S*\.bf16\.bf16", BF16X2])]),
    # Words at system scope: a weaker load or store would pass on one GPU.
    ("peer_all_reduce", "90a", [("one_shot_kernelILj8ELb0E", FLAGS), ("two_shot_kernel", FLAGS), ("one_shot_kernelILj8ELb1E", LINES)]),
    ("peer_reduce_norm", "90a", [("E0ELb0E", FLAGS), ("E0ELb1E", LINES)]),
    ("expert_slots", "90a", [("send_kernel", [r"st\.release\.sys\.global\.u64"]), ("receive_kernel", [r"ld\.acquire\.sys\.global\.u64"]),
                             ("return_kernel", FLAGS[:1]), ("combine_kernel", FLAGS[1:])]),
    ("kv_transfer", "90a", [("kv_transfer_kernel", FLAGS[:1]), ("kv_wait_kernel", FLAGS[1:])]),
    # Sources of latents: 0 tensor copies, 1 rows by cp.async, 2 and 3 from eight bits, to fp16 and to bf16.
    ("mla_decode_wgmma", "90a", [("mla_wgmma_kernel", [r"mbarrier\.try_wait\.parity", r"setmaxnreg\.inc"]),
                                 ("SourceE0E", COPIES + [WGMMA_BF16 % 64, WGMMA_BF16 % 256, r"multicast::cluster"]),
                                 ("SourceE1E", [WGMMA_BF16 % 64, WGMMA_BF16 % 256, r"cp\.async\.mbarrier\.arrive\.noinc"]),
                                 ("SourceE2E", [E4M3_TO_F16, WGMMA_F16 % 64, WGMMA_F16 % 256 + FROM_REGISTERS]),
                                 ("SourceE3E", [E4M3_TO_F16, WGMMA_BF16 % 64, WGMMA_BF16 % 64 + FROM_REGISTERS])]),
    ("mla_decode", "89", [("mla_decode_kernel", [PLAIN[1], MMA_BF16]), ("LatentFormatE0E", [PLAIN[0]]), ("LatentFormatE1E", [BF16X2]), ("LatentFormatE2E", [E4M3_TO_F16])]),
    ("attention_prefill_wgmma", "90a", [("", COPIES + [WGMMA_BF16 % 128]), ("ShapeILi192ELi128E", [r"setmaxnreg\.inc"])]),
    # Pieces are merged by a kernel that may begin before they are there: it waits.
    ("attention_decode", "90a", [("decode_kernel", PLAIN + [r"griddepcontrol\.launch_dependents"]),
                                 ("decode_kernelILi128ELb1E", [E4M3_TO_F16]), ("merge_kernel", [r"griddepcontrol\.wait"])]),
    ("attention_prefill", "89", [("", PLAIN + [MMA_BF16])]),
    ("index_scores", "89", [("", [MMA_E4M3])]),
]


def missing(ptx, expected):
    """[(kernel, what it lacks)], and how many kernels there are"""
    kernels = {m.group(1): m.group(0) for m in ENTRY.finditer(ptx)}
    found = [(name, "local memory: an array left the registers") for name, text in kernels.items() if re.search(r"\.local\b", text)]
    for part, wanted in expected:
        named = [name for name in kernels if part in name]
        if not named:
            found.append((part, "no such kernel"))
        found += [(name, w) for name in named for w in wanted if not re.search(w, kernels[name])]
    return found, len(kernels)


def translate(nvcc, include, source, target):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "k.ptx")
        subprocess.run([nvcc, "-std=c++20", "-O3", f"-gencode=arch=compute_{target},code=compute_{target}", "-ptx", f"-I{include}",
                        str(ROOT / "kernels" / f"{source}.cu"), "-o", out], check=True)
        return pathlib.Path(out).read_text(encoding="utf-8")


def self_test():
    good = ".visible .entry _ZaShape(\n) { mma.sync x; }\n.visible .entry _Zb() { mma.sync y; }\n"
    checks = [missing(good, [("", ["mma\\.sync"])]) == ([], 2), len(missing(good, [("Shape", ["wgmma"])])[0]) == 1,
              len(missing(good, [("", [" y;"])])[0]) == 1, missing(good, [("Other", [])])[0] == [("Other", "no such kernel")],
              len(missing(good.replace("y;", ".local .b8 a[4];"), [])[0]) == 1]
    print(f"check_instructions self-test: {sum(checks)} of {len(checks)}")
    return 0 if all(checks) else 1


def main(arguments):
    if arguments == ["--self-test"]:
        return self_test()
    nvcc, include, only = arguments[0], arguments[1], arguments[2:]
    chosen = [e for e in EXPECTED if not only or e[0] in only]
    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(lambda e: translate(nvcc, include, e[0], e[1]), chosen))
    bad = 0
    for (source, target, expected), ptx in zip(chosen, texts):
        found, kernels = missing(ptx, expected)
        for name, what in found:
            print(f"{source}.cu, sm_{target}: {name}: {what}")
        print(f"{source}.cu, sm_{target}: {kernels} kernels, {len(found)} lacks")
        bad += len(found) + (kernels == 0)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
