#!/usr/bin/env python3
"""./dev test --full [--only PART] [--again]: what takes too long for the gate. Resumable.

A part that passed on the current commit (nothing uncommitted) is not run again unless --again. Results are kept in
build/full/ and written to reports/results/full_test.md after every part.
"""
import argparse
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
JOBS = os.environ.get("ORRERY_JOBS", str(os.cpu_count()))
STATE = ROOT / "build" / "full"
REPORT = ROOT / "reports" / "results" / "full_test.md"


def preset(name):
    return [["cmake", "--preset", name], ["cmake", "--build", f"build/{name}", "-j", JOBS],
            ["ctest", "--test-dir", f"build/{name}", "--output-on-failure", "--no-tests=error", "-j", JOBS]]


PARTS = {
    "gate": ("the gate: gcc Release, clang Debug with ASan/UBSan, digests compared", [["./dev", "test"]]),
    "clang": ("everything in clang Release", preset("clang")),
    "debug": ("everything in gcc Debug", preset("debug")),
    "asan": ("everything in clang Debug with ASan/UBSan", preset("asan")),
    "tsan": ("everything in clang with TSan", preset("tsan")),
}
NOT_BUILT = {
    "aarch64": "cross-compilation and digests on aarch64", "packages": "packages", "browser": "browser journeys",
    "snippets": "documentation snippets", "fuzz": "fuzzing", "worlds": "random worlds", "gpu": "GPU code",
}


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def state_of(part):
    path = STATE / f"{part}.json"
    return json.loads(path.read_text()) if path.exists() else None


def run(part, commit):
    STATE.mkdir(parents=True, exist_ok=True)
    started, lines, status = time.time(), [], 0
    for command in PARTS[part][1]:
        print(f"== {part}: {' '.join(command)}", flush=True)
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
        status = process.wait()
        if status:
            break
    summary = [line.strip() for line in lines if re.search(r"tests passed", line)]
    result = {"part": part, "commit": commit, "passed": status == 0, "seconds": round(time.time() - started),
              "date": datetime.date.today().isoformat(),
              "summary": summary[-1] if summary else f"ended with status {status} before any test"}
    (STATE / f"{part}.json").write_text(json.dumps(result))
    return result


def write_report():
    rows = ""
    for part, (what, _) in PARTS.items():
        r = state_of(part)
        rows += f"| {part} | {what} | " + ("not run | – | – | – |\n" if not r else
                f"{'passed' if r['passed'] else 'FAILED'}: {r['summary']} | {r['commit']} | {r['date']} | {r['seconds']} s |\n")
    missing = "".join(f"- {part}: {what}\n" for part, what in NOT_BUILT.items())
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    partial = REPORT.with_name(REPORT.name + f".partial-{os.getpid()}")
    partial.write_text(f"""# Full test

Made by `./dev test --full`. Compilers: {output_of('g++', '--version').splitlines()[0]}; \
{(output_of('clang++', '--version').splitlines() or ['no clang'])[0]}.

| part | what | result | commit | date | took |
|---|---|---|---|---|---|
{rows}
Do not exist yet:

{missing}""", encoding="utf-8")
    os.replace(partial, REPORT)


def main():
    parser = argparse.ArgumentParser(prog="./dev test --full", description=__doc__)
    parser.add_argument("--only", action="append", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--again", action="store_true", help="run parts that passed on this commit too")
    options = parser.parse_args()
    for part in options.only or []:
        if part in NOT_BUILT:
            parser.error(f"{part} is not built yet: {NOT_BUILT[part]}")
        if part not in PARTS:
            parser.error(f"unknown part {part}; there are {', '.join(PARTS)}")
    dirty = bool(output_of("git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!reports/results"))
    commit = output_of("git", "rev-parse", "--short=12", "HEAD") + ("+changes" if dirty else "")
    failed = []
    for part in options.only or PARTS:
        done = state_of(part)
        if done and done["passed"] and done["commit"] == commit and not dirty and not options.again:
            print(f"== {part}: passed on {commit} already")
            continue
        if not run(part, commit)["passed"]:
            failed.append(part)
        write_report()
    write_report()
    print(f"not built yet: {', '.join(NOT_BUILT)}")
    print(f"{'FAILED: ' + ', '.join(failed) if failed else 'all parts passed'}\n{REPORT}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
