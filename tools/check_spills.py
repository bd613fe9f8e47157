#!/usr/bin/env python3
"""No kernel spills registers: tools/check_spills.py FOLDER | --self-test

Reads what the compilers said while they built device code: *.ptxas.log (ptxas -v) and *.gfx….log (clang's
kernel-resource-usage remarks). A spill in a kernel that states a bound (__launch_bounds__) means that the bound
is wrong for it; every kernel here states one.
"""
import pathlib
import re
import sys

PTXAS = re.compile(r"Function properties for (\S+)\s+(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'")
REMARK = re.compile(r"remark:\s+(Function Name|ScratchSize \[bytes/lane\]|SGPRs Spill|VGPRs Spill): (\S+)")


def ptxas_spills(text):
    """(kernels seen, [(kernel, target, what)])"""
    found, target, seen = [], "?", 0
    for line in re.split(r"(?=ptxas info)", text):
        if match := ENTRY.search(line):
            target, seen = match.group(2), seen + 1
        if match := PTXAS.search(line):
            name, _, stores, loads = match.groups()
            if int(stores) or int(loads):
                found.append((name, target, f"{stores} bytes spill stores, {loads} bytes spill loads"))
    return seen, found


def clang_spills(text):
    found, name, seen = [], "?", 0
    for what, value in REMARK.findall(text):
        if what == "Function Name":
            name, seen = value, seen + 1
        elif int(value):
            found.append((name, "", f"{what} {value}"))
    return seen, found


def self_test():
    good = ("ptxas info    : Compiling entry function '_Zk' for 'sm_89'\nptxas info    : Function properties for _Zk\n"
            "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n")
    bad = good.replace("0 bytes spill loads", "16 bytes spill loads")
    remark = ("a.cu:1:1: remark: Function Name: _Zk [-R]\na.cu:1:1: remark:     ScratchSize [bytes/lane]: 0 [-R]\n"
              "a.cu:1:1: remark:     VGPRs Spill: 0 [-R]\n")
    checks = [ptxas_spills(good) == (1, []), ptxas_spills(bad)[1][0][:2] == ("_Zk", "sm_89"),
              clang_spills(remark) == (1, []), len(clang_spills(remark.replace("Spill: 0", "Spill: 3"))[1]) == 1]
    print(f"check_spills self-test: {sum(checks)} of {len(checks)}")
    return 0 if all(checks) else 1


def main(arguments):
    if arguments == ["--self-test"]:
        return self_test()
    kernels, spills = 0, 0
    for path in sorted(pathlib.Path(arguments[0]).glob("*.log")):
        read = ptxas_spills if path.name.endswith(".ptxas.log") else clang_spills
        seen, found = read(path.read_text(encoding="utf-8", errors="replace"))
        kernels += seen
        for name, target, what in found:
            spills += 1
            print(f"{path.name}: {name} {target}: {what}")
        if not seen:
            print(f"{path.name}: no kernel in it")
            spills += 1
    print(f"check_spills: {kernels} kernels × targets, {spills} findings")
    return 1 if spills or not kernels else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
