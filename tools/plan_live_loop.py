#!/usr/bin/env python3
"""Plan, run the first two choices on the machine, put what they measured into the tables, plan again.

    plan_live_loop.py ORRERY OUT [--space examples/plan-h200-pair.yaml] [--only plan,live,update,again,report]
        [--live "--own-all-reduce"] [--held-out-seed 2]

OUT gets everything; a part that is there is not made again, so the runs can be made on a machine with GPUs (--only plan,live)
and the rest elsewhere. `live` runs each of the first two choices twice: with the space's seed, to which operator factors are
fitted (`orrery calibrate --from-steps`, tools/kernel_steps_to_run.py), and with another one, which shows what the factors are
worth on a run that they have not seen. Of a fit only the operators are taken: our engine's host times are its profile's. A
choice's profile is for that choice alone; who was not run is planned with the tables as they were, and said so.
The objective has to be latency.
"""
import argparse
import csv
import json
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import kernel_steps_to_run                                                                     # noqa: E402

PARTS = ["plan", "live", "update", "again", "report"]
SHOWN = ["e2e_ms.mean", "ttft_ms.mean", "ttft_ms.p50", "tpot_ms.mean"]
CLOCKS = "nvidia-smi --query-gpu=index,clocks.sm,power.draw --format=csv,noheader,nounits -lms 500".split()


def run(*command, log=None):
    print("$", " ".join(map(str, command)), flush=True)
    done = subprocess.run([str(part) for part in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if log:
        log.write_text(done.stdout)
    if done.returncode != 0:
        sys.exit(f"{done.stdout}\nexit code {done.returncode}: {' '.join(map(str, command))}")
    return done.stdout


def read(path):
    return json.loads(pathlib.Path(path).read_text())


class Loop:
    def __init__(self, options):
        self.orrery, self.out, self.options = options.orrery, pathlib.Path(options.out), options
        self.out.mkdir(parents=True, exist_ok=True)

    def plan(self):
        if not (self.out / "plan").exists():
            run(self.orrery, "plan", self.options.space, "--out", self.out / "plan", log=self.out / "plan.log")

    def choices(self):
        """Label, scenario of the first two."""
        plan = read(self.out / "plan/recommendation.json")
        if plan["objective"] != "latency":
            sys.exit("the loop compares mean end-to-end latencies; the space's objective is " + plan["objective"])
        labels = [plan["choice"]["label"], plan["alternatives"][0]["label"]]
        return list(zip(labels, [self.out / "plan/choice.yaml", self.out / "plan/alternative-1.yaml"]))

    def folder(self, index, seen):
        return self.out / f"live-{index + 1}{'' if seen else '-held-out'}"

    def live(self):
        for index, (_, scenario) in enumerate(self.choices()):
            for seen in (True, False):
                to = self.folder(index, seen)
                if to.exists():
                    continue
                seed = [] if seen else ["--seed", self.options.held_out_seed]
                clocks = open(f"{to}.clocks.csv", "w")
                try:
                    watch = subprocess.Popen(CLOCKS, stdout=clocks, stderr=subprocess.DEVNULL)
                except FileNotFoundError:
                    watch = None
                run(self.orrery, "live", scenario, "--intervals", 16, "--out", to, "--tape", f"{to}.tape", *seed,
                    *self.options.live.split(), log=pathlib.Path(f"{to}.log"))
                if watch:
                    watch.terminate()
                clocks.close()

    def engine(self, index):
        return (self.out / f"engine-{index + 1}.yaml").resolve()

    def with_engine(self, text, engine):
        return re.sub(r"(engine:\s*)orrery\b", lambda m: m.group(1) + str(engine), text)

    def update(self):
        """An engine profile of each choice, with the factors that its first run gave."""
        for index, (label, scenario) in enumerate(self.choices()):
            steps, fit = self.out / f"steps-{index + 1}", self.out / f"fit-{index + 1}"
            if not fit.exists():
                kernel_steps_to_run.convert(self.folder(index, True), steps)
                run(self.orrery, "calibrate", "--from-steps", steps, "--scenario", scenario, "--out", fit,
                    log=self.out / f"fit-{index + 1}.log")
            fitted = (fit / "engine.yaml").read_text()
            operators = fitted.partition("\noperators:")[2].partition("\n#")[0]
            self.engine(index).write_text(
                f"name: orrery-measured-{index + 1}\ndescription: orrery with what a live run of \"{label}\" measured\n"
                "base: orrery\n" + (f"operators:{operators.rstrip()}\n" if operators else ""))

    def again(self):
        if not (self.out / "plan-again").exists():
            labels = [label for label, _ in self.choices()]
            text, parts = pathlib.Path(self.options.space).read_text(), []
            head, *shapes = re.split(r"(?m)^(?=    - name: )", text)
            for shape in shapes:
                name = re.match(r"    - name: (.+)", shape).group(1).strip()
                known = name in labels
                parts.append(self.with_engine(shape, self.engine(labels.index(name))) if known else shape)
            space = self.out / "space-again.yaml"
            space.write_text(head + "".join(parts))
            run(self.orrery, "plan", space, "--out", self.out / "plan-again", log=self.out / "plan-again.log")
        for index, (_, scenario) in enumerate(self.choices()):
            updated = self.out / f"updated-{index + 1}.yaml"
            updated.write_text(self.with_engine(scenario.read_text(), self.engine(index)))
            to = self.out / f"compared-{index + 1}-held-out"
            if not to.exists():  # the run that the factors have not seen, beside what is predicted with them
                run(self.orrery, "live", updated, "--measured", self.folder(index, False), "--intervals", 16, "--seed",
                    self.options.held_out_seed, "--out", to)

    # ----------------------------------------------------------------------------------------------- what came of it

    def clocks(self, folder):
        rows = [row for row in csv.reader(open(f"{folder}.clocks.csv")) if len(row) == 3]
        busy = [[float(row[1]), float(row[2])] for row in rows if float(row[2]) > 250]
        if not busy:
            return "–"
        middle = [sorted(column)[len(column) // 2] for column in zip(*busy)]
        return f"{middle[0]:.0f} MHz, {middle[1]:.0f} W"

    def figures(self):
        before, after = read(self.out / "plan/recommendation.json"), read(self.out / "plan-again/recommendation.json")
        measured = [read(self.folder(i, seen) / "comparison.json") for i in range(2) for seen in (True, False)]
        updated = [read(self.out / f"compared-{i + 1}-held-out/comparison.json") for i in range(2)]
        return before, after, measured, updated

    def report(self):
        before, after, measured, updated = self.figures()
        labels = [label for label, _ in self.choices()]
        margin = [b["e2e_ms.mean"]["measured"] / a["e2e_ms.mean"]["measured"] - 1 for a, b in (measured[0::2], measured[1::2])]
        predicted = [row["objective"] for row in (before["choice"], before["alternatives"][0])]
        verdict = "confirmed" if min(margin) > 0 else "refuted" if max(margin) < 0 else "left open"
        lines = [f"The ranking is **{verdict}**: `{labels[0]}` before `{labels[1]}` was predicted by "
                 f"{(predicted[1] / predicted[0] - 1) * 100:.1f} %, measured by {margin[0] * 100:.1f} % and, with the other seed, "
                 f"{margin[1] * 100:.1f} %.", "", f"On {measured[0]['kernel_steps']['device']}.", ""]
        lines += ["| run | " + " | ".join(SHOWN) + " | clocks and power while busy, median |", "|---" * (len(SHOWN) + 2) + "|"]
        for index, label in enumerate(labels):
            for seen, found in ((True, measured[2 * index]), (False, measured[2 * index + 1]), (None, updated[index])):
                name = {True: "", False: ", not seen by the fit", None: ", the same, predicted with the updated tables"}[seen]
                cells = [f"{found[key]['predicted']:.4g} / {found[key]['measured']:.4g} ({found[key]['error_percent']:+.1f} %)"
                         for key in SHOWN]
                clock = self.clocks(self.folder(index, bool(seen))) if seen is not None else ""
                lines.append(f"| `{label}`{name} | " + " | ".join(cells) + f" | {clock} |")
        lines += ["", "| plan | mean latency before, ms | after, ms | tables |", "|---|--:|--:|---|"]
        again = {row["label"]: row for row in after["finalists"]}
        for row in before["finalists"]:
            known = "updated by its run" if row["label"] in labels else "as they were: it was not run"
            lines.append(f"| `{row['label']}` | {row['objective']:.1f} | {again[row['label']]['objective']:.1f} | {known} |")
        lines += ["", f"Chosen before: `{before['choice']['label']}`, after: `{after['choice']['label']}`."]
        text = "\n".join(lines) + "\n"
        (self.out / "report.md").write_text(text)
        print(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("orrery")
    parser.add_argument("out")
    parser.add_argument("--space", default="examples/plan-h200-pair.yaml")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--live", default="", help="further options of `orrery live`")
    parser.add_argument("--held-out-seed", default="2")
    options = parser.parse_args()
    loop = Loop(options)
    for part in PARTS:
        if part in options.only.split(","):
            getattr(loop, part)()


if __name__ == "__main__":
    main()
