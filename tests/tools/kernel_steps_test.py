#!/usr/bin/env python3
"""A live run's steps as a log that factors are fitted to: kernel_steps_test.py ORRERY SOURCE_DIR

On a run of two H200s that is in the repository (reports/results/live_2gpu), and on one whose figures are made up.
"""
import csv
import json
import pathlib
import subprocess
import sys
import tempfile

ORRERY, SOURCE = sys.argv[1], pathlib.Path(sys.argv[2])
sys.path.insert(0, str(SOURCE / "tools"))
import kernel_steps_to_run                                                                     # noqa: E402
import plan_live_loop                                                                          # noqa: E402

NAME = "ep2_qwen3-30b-a3b-fp8_hotspot_nccl"


def check(holds, what):
    if not holds:
        sys.exit("FAILED: " + what)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def made(folder, rows):
    """A folder as `orrery live --out` leaves it."""
    folder.mkdir()
    with open(folder / "steps.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "measured.csv").write_text("prompt_tokens,output_tokens\n" + "1024,128\n" * 72)
    return folder


def fitted(work, name, rows):
    kernel_steps_to_run.convert(made(work / name, rows), work / f"{name}-log")
    done = subprocess.run([ORRERY, "calibrate", "--from-steps", work / f"{name}-log", "--scenario",
                           SOURCE / "reports/results/live_2gpu/ep2_qwen3-30b-a3b-fp8_hotspot.yaml", "--out", work / f"{name}-fit"],
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    check(done.returncode == 0, done.stdout)
    fit = json.loads((work / f"{name}-fit/fit.json").read_text())
    return {error["kind"]: error for error in fit["left_out"]}, rows_of(work / f"{name}-log/steps.csv")


def main():
    rows = rows_of(SOURCE / f"reports/results/live_2gpu/{NAME}.steps.csv")
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        errors, log = fitted(work, "run", rows)
        kept = [row for row in rows if row["first_use"] == "0"]
        check(len(log) == len(kept), "a step of the log for each that met nothing new")
        check(sum(int(row["tokens"]) for row in log) ==
              sum(int(row["prefill_tokens"]) + int(row["decodes"]) for row in kept), "no token is lost")
        chunks = [part.split("@") for row in log for part in row["prefill_chunks"].split()]
        check(sum(int(tokens) for tokens, _ in chunks) == 72 * 1024, "the chunks are the prompts")
        check(errors["device, decode"]["after_percent"] < errors["device, decode"]["before_percent"],
              f"fitted factors say more of parts left out than the tables: {errors}")
        # Steps that take what is predicted leave nothing to correct.
        alike, _ = fitted(work, "alike", [dict(row, measured_us=row["predicted_us"]) for row in rows])
        check(alike["device, decode"]["before_percent"] < 0.5, f"a run as predicted has no error: {alike}")
    loop = plan_live_loop.Loop.__new__(plan_live_loop.Loop)
    check(loop.with_engine("{engine: orrery, engine_args: {}}", "x.yaml") == "{engine: x.yaml, engine_args: {}}",
          "the engine is named, its arguments stay")


if __name__ == "__main__":
    main()
