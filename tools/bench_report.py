#!/usr/bin/env python3
"""Run the benchmark program and keep what it printed: bench_report.py PROGRAM OUT.md [arguments of PROGRAM…].

PROGRAM prints one JSON object a line. `bench` names the table that the line belongs to, `limit` (optional) says what
was asked of it, `ok` (optional) whether that was met; every other key is a column. Exit 1 when a line has ok = false.
"""
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def text_of(command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return done.stdout.strip() if done.returncode == 0 else ""


def machine():
    info = pathlib.Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    model = re.search(r"model name\s*:\s*(.*)", info)
    memory = re.search(r"MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text()) if info else None
    gib = f", {int(memory.group(1)) / 2**20:.0f} GiB" if memory else ""
    return f"{model.group(1) if model else 'unknown CPU'}, {os.cpu_count()} cores{gib}"


def compiler(program):
    for folder in program.resolve().parents:
        cache = folder / "CMakeCache.txt"
        if cache.exists():
            found = dict(re.findall(r"^(CMAKE_CXX_COMPILER|CMAKE_BUILD_TYPE):\w+=(.*)$", cache.read_text(), re.M))
            version = text_of([found.get("CMAKE_CXX_COMPILER", "c++"), "--version"]).splitlines()
            return f"{version[0] if version else 'unknown compiler'}, {found.get('CMAKE_BUILD_TYPE', 'unknown')}"
    return "unknown compiler"


def cell(value):
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def table(rows):
    keys = []
    for row in rows:
        keys += [k for k in row if k not in keys and k not in ("bench", "note")]
    lines = ["| " + " | ".join(k.replace("_", " ") for k in keys) + " |", "|" + " --: |" * len(keys)]
    lines += ["| " + " | ".join(cell(row.get(k)) for k in keys) + " |" for row in rows]
    notes = [row["note"] for row in rows if row.get("note")]
    return "\n".join(lines + [""] + [f"{n}\n" for n in dict.fromkeys(notes)])


def main(program, out, arguments):
    load = os.getloadavg()[0]
    process = subprocess.Popen([str(program), *arguments], stdout=subprocess.PIPE, text=True)
    rows = []
    for line in process.stdout:
        if line.startswith("{"):
            rows.append(json.loads(line))
            print(" · ".join(f"{k}={cell(v)}" for k, v in rows[-1].items()), flush=True)
        else:
            print(line, end="", flush=True)
    if process.wait() != 0:
        print(f"bench: {program} ended with {process.returncode}; nothing written", file=sys.stderr)
        return 1
    commit = text_of(["git", "rev-parse", "--short=12", "HEAD"]) or "unknown"
    dirty = " with uncommitted changes" if text_of(["git", "status", "--porcelain", "--untracked-files=no"]) else ""
    text = f"""# Speed

Made by `./dev bench` on {datetime.date.today().isoformat()}, commit {commit}{dirty}.
Machine: {machine()}; {compiler(program)}; load average before the start {load:.2f}.
"""
    for bench in dict.fromkeys(row.get("bench", "bench") for row in rows):
        text += f"\n## {bench}\n\n" + table([r for r in rows if r.get("bench", "bench") == bench])
    missed = [r for r in rows if r.get("ok") is False]
    text += f"\n{len(missed)} of {sum('ok' in r for r in rows)} limits missed.\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + f".partial-{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, out)
    print(f"{len(missed)} limits missed\n{out}")
    return 1 if missed else 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:]))
