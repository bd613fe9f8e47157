#!/usr/bin/env python3
"""Checks that AMD code objects hold the instructions that their kernels are written for: check_amd_instructions.py COMPILER DIRECTORY

Disassembles every kernel of DIRECTORY/*.gfx….co and looks for the matrix and conversion instructions of the table below:
a matrix product that the compiler was given as a loop, or an fp8 conversion by hand, compiles as well and is some ten times
slower. The disassembler is the compiler's own llvm-objdump or, where a distribution ships it apart, the LLVM library that
the compiler is linked with. Exit code 77: there is neither.
"""
import ctypes
import pathlib
import re
import struct
import subprocess
import sys

# Code object, part of a kernel's (mangled) name, instruction by target. `Lb1E` is the e4m3 form of a template over it.
EXPECTED = [
    ("grouped_gemm", r"grouped_gemm_kernel.*ShapeILb1E",
     {"gfx942": "v_mfma_f32_16x16x32_fp8_fp8", "gfx1201": "v_wmma_f32_16x16x16_fp8_fp8"}),
    ("grouped_gemm", r"grouped_gemm_kernel.*ShapeILb0E",
     {"gfx942": "v_mfma_f32_16x16x16_bf16", "gfx1201": "v_wmma_f32_16x16x16_bf16"}),
    ("block_gemm", r"block_gemm_kernel", {"gfx942": "v_mfma_f32_16x16x32_fp8_fp8", "gfx1201": "v_wmma_f32_16x16x16_fp8_fp8"}),
    ("w4_gemm", r"w4_gemm_kernel.*ShapeILb1E",
     {"gfx942": "v_mfma_f32_16x16x16_bf16", "gfx1201": "v_wmma_f32_16x16x16_bf16"}),
    ("w4_gemm", r"w4_gemm_kernel.*ShapeILb0E",
     {"gfx942": "v_mfma_f32_16x16x32_fp8_fp8", "gfx1201": "v_wmma_f32_16x16x16_fp8_fp8"}),
    ("w4_gemm", r"w4_gemm_kernel.*ShapeILb0E", {"gfx942": "v_perm_b32", "gfx1201": "v_perm_b32"}),
    ("attention_decode", r"decode_kernel", {"gfx942": "v_mfma_f32_16x16x16_bf16", "gfx1201": "v_wmma_f32_16x16x16_bf16"}),
    ("attention_decode", r"decode_kernelILi\d+ELb1E", {"gfx942": "v_cvt_pk_f32_fp8", "gfx1201": "v_cvt_pk_f32_fp8"}),
    ("attention_prefill", r"prefill_kernel", {"gfx942": "v_mfma_f32_16x16x16_bf16", "gfx1201": "v_wmma_f32_16x16x16_bf16"}),
    ("mla_decode", r"mla_decode_kernel", {"gfx942": "v_mfma_f32_16x16x16_bf16", "gfx1201": "v_wmma_f32_16x16x16_bf16"}),
    ("mla_decode", r"mla_decode_kernel.*FormatE[12]E", {"gfx942": "v_cvt_pk_f32_fp8", "gfx1201": "v_cvt_pk_f32_fp8"}),
    ("index_scores", r"index_scores_kernel", {"gfx942": "v_mfma_f32_16x16x32_fp8_fp8", "gfx1201": "v_wmma_f32_16x16x16_fp8_fp8"}),
    ("quantize", r"quantize", {"gfx942": "v_cvt_pk_fp8_f32", "gfx1201": "v_cvt_pk_fp8_f32"}),
    ("permute_quantize", r"permute", {"gfx942": "v_cvt_pk_fp8_f32", "gfx1201": "v_cvt_pk_fp8_f32"}),
]


def functions(image):
    """Name → code of the kernels of a 64-bit little-endian ELF image."""
    at, = struct.unpack_from("<Q", image, 0x28)
    size, count = struct.unpack_from("<HH", image, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", image, at + i * size) for i in range(count)]
    code = {}
    for _, kind, _, _, offset, length, link, _, _, each in sections:
        if kind != 2:  # SHT_SYMTAB
            continue
        for i in range(offset, offset + length, each):
            name, info, _, section, value, bytes_ = struct.unpack_from("<IBBHQQ", image, i)
            if info & 15 != 2 or section == 0 or section >= count:  # STT_FUNC, defined
                continue
            begin = sections[link][4] + name
            text = image[begin:image.index(b"\0", begin)].decode()
            start = value - sections[section][3] + sections[section][4]
            code[text] = image[start:start + bytes_]
    return code


class Library:
    """LLVM's disassembler through its C interface."""

    def __init__(self):
        names = [f"libLLVM.so.{v}" for v in ("19.1", "20.1", "21.1")] + ["libLLVM-19.so"]
        for name in names:
            try:
                self.llvm = ctypes.CDLL(name)
                break
            except OSError:
                continue
        else:
            raise FileNotFoundError
        for part in ("TargetInfo", "TargetMC", "Disassembler"):
            getattr(self.llvm, f"LLVMInitializeAMDGPU{part}")()
        self.llvm.LLVMCreateDisasmCPU.restype = ctypes.c_void_p
        self.llvm.LLVMDisasmInstruction.restype = ctypes.c_size_t
        self.llvm.LLVMDisasmInstruction.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_uint64,
                                                    ctypes.c_char_p, ctypes.c_size_t]

    def kernels(self, path, target):
        context = self.llvm.LLVMCreateDisasmCPU(b"amdgcn-amd-amdhsa", target.encode(), None, 0, None, None)
        out = ctypes.create_string_buffer(512)
        read = {}
        for name, code in functions(path.read_bytes()).items():
            at, found = 0, set()
            while at < len(code):
                used = self.llvm.LLVMDisasmInstruction(context, code[at:at + 20], len(code[at:at + 20]), at, out, 512)
                found.add(out.value.split()[0].decode() if used else "")
                at += used or 4
            read[name] = found
        return read


class Objdump:
    def __init__(self, compiler):
        self.path = pathlib.Path(compiler).resolve().parent / "llvm-objdump"
        if not self.path.exists():
            raise FileNotFoundError

    def kernels(self, path, target):
        text = subprocess.run([self.path, "-d", "--no-show-raw-insn", f"--mcpu={target}", path], capture_output=True,
                              text=True, check=True).stdout
        return read_objdump(text)


def read_objdump(text):
    read, found = {}, set()
    for line in text.splitlines():
        if match := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            found = read.setdefault(match[1], set())
        elif line.startswith("\t"):
            found.add(line.split()[0])
    return read


def missing(name, target, kernels):
    """What the kernels of one code object lack, in words."""
    faults = []
    for code_object, pattern, instructions in EXPECTED:
        if code_object != name:
            continue
        chosen = {k: v for k, v in kernels.items() if re.search(pattern, k)}
        if not chosen:
            faults.append(f"{name}.{target}: no kernel matches {pattern}")
        # v_mfma_f32_… and v_mfma_f32_…_e64 are one instruction.
        wanted = re.compile(re.escape(instructions[target]) + r"(_e32|_e64|_vgprcd|_1k)?$")
        faults += [f"{name}.{target}: {k} has no {instructions[target]}" for k, found in chosen.items()
                   if not any(wanted.match(i) for i in found)]
    return faults


def self_test():
    listing = "0000000000001900 <_ZN13decode_kernelILi64ELb1EEEv>:\n\tv_cvt_pk_f32_fp8_e32 v[0:1], v2\n\ts_endpgm\n"
    kernels = read_objdump(listing)
    bad = missing("attention_decode", "gfx942", kernels)
    kernels["_ZN13decode_kernelILi64ELb1EEEv"].add("v_mfma_f32_16x16x16_bf16")
    good = missing("attention_decode", "gfx942", kernels)
    right = bad == ["attention_decode.gfx942: _ZN13decode_kernelILi64ELb1EEEv has no v_mfma_f32_16x16x16_bf16"] and not good
    right = right and missing("quantize", "gfx1201", {}) == ["quantize.gfx1201: no kernel matches quantize"]
    print("check_amd_instructions: self-test", "passed" if right else f"FAILED: {bad} {good}")
    return 0 if right else 1


def main(arguments):
    if arguments == ["--self-test"]:
        return self_test()
    compiler, directory = arguments
    try:
        disassembler = Objdump(compiler)
    except FileNotFoundError:
        try:
            disassembler = Library()
        except (FileNotFoundError, AttributeError):
            print("check_amd_instructions: neither llvm-objdump beside the compiler nor an LLVM library that knows AMD's parts")
            return 77
    faults, checked = [], 0
    for name in sorted({e[0] for e in EXPECTED}):
        for target in ("gfx942", "gfx1201"):
            path = pathlib.Path(directory) / f"{name}.{target}.co"
            if not path.exists():
                faults.append(f"{path} is not there")
                continue
            kernels = disassembler.kernels(path, target)
            faults += missing(name, target, kernels)
            checked += len(kernels)
    print("\n".join(faults) or f"check_amd_instructions: {checked} kernels hold what they are written for")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
