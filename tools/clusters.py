#!/usr/bin/env python3
"""Clusters shown: tools/clusters.py [--orrery build/release/orrery] [--only WORD | --laws]

Plays the what-ifs of tools/cluster_studies.py, cluster_context.py, cluster_exchange.py, cluster_network.py and the laws of tools/cluster_laws.py, and writes reports/results/clusters.md, its charts
(clusters/*.svg), and the same tables as clusters.json and clusters.csv. A few minutes on two cores. Exits 7 when a law fails.
--only: the studies whose function's name holds WORD, printed and not written. --laws: the laws alone, nothing written.
"""
import argparse
import concurrent.futures
import csv
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cluster_context  # noqa: E402
import cluster_exchange  # noqa: E402
import cluster_laws  # noqa: E402
import cluster_network  # noqa: E402
import cluster_studies  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "reports" / "results"


class Bench:
    """The binary, with equal calls made once."""

    def __init__(self, orrery, folder):
        self.orrery, self.folder, self.done, self.runs = orrery, pathlib.Path(folder), {}, 0

    def file(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def json(self, *command):
        if command not in self.done:
            ran = subprocess.run([self.orrery, *command], cwd=ROOT, capture_output=True, text=True)
            if ran.returncode != 0:
                raise SystemExit(f"clusters: {' '.join(command)}\n{ran.stderr}")
            self.runs += 1
            self.done[command] = json.loads(ran.stdout)
        return self.done[command]

    def run(self, scenario, settings):
        return self.json("simulate", scenario, "--intervals", "off", "--json", *cluster_studies.set_options(settings))

    def cost(self, scenario, step, settings):
        return self.json("cost", scenario, "--step", step, "--json", *cluster_studies.set_options(settings))


# ------------------------------------------------------------------------------------------------------ report

def cell(value):
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else cluster_studies.number(value)


def table(header, rows):
    out = ["| " + " | ".join(header) + " |",
           "|" + "|".join("---" if isinstance(v, str) else "--:" for v in rows[0]) + "|"]
    return "\n".join(out + ["| " + " | ".join(cell(v) for v in row) + " |" for row in rows])


def section(study):
    text = f"## {study.title}\n\n{study.question}\n\n`{study.command}`\n\n{table(study.header, study.rows)}\n\n"
    text += "".join(f"![{name}](clusters/{name})\n\n" for name in study.charts)
    text += "".join(f"- {line}\n" for line in study.says)
    return text + f"\n*Unverified:* {study.unverified}\n"


def report(studies, laws):
    text = ("# Clusters\n\nWritten by `python3 tools/clusters.py --orrery build/release/orrery`; numbers also in "
            "[clusters.json](clusters.json) and [clusters.csv](clusters.csv). **Predictions**: nothing on this page was "
            "measured but what a row calls published or measured; what each rests on stands under it.\n\n")
    text += "\n".join(section(s) for s in studies)
    text += "\n## Laws\n\n" + table(["law", "holds", "seen"], [[n, "yes" if ok else "**NO**", seen] for n, ok, seen in laws])
    return text + f"\n\n{cluster_laws.TESTS}\n"


def write(studies, laws):
    (RESULTS / "clusters").mkdir(exist_ok=True)
    for old in (RESULTS / "clusters").glob("*.svg"):
        old.unlink()
    for study in studies:
        for name, svg in study.charts.items():
            (RESULTS / "clusters" / name).write_text(svg)
    (RESULTS / "clusters.md").write_text(report(studies, laws))
    tables = [{"title": s.title, "command": s.command, "header": s.header, "rows": s.rows, "says": s.says,
               "unverified": s.unverified} for s in studies]
    (RESULTS / "clusters.json").write_text(json.dumps(
        {"studies": tables, "laws": [{"law": n, "holds": ok, "seen": seen} for n, ok, seen in laws]}, indent=1,
        ensure_ascii=False) + "\n")
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["study", "row", "column", "value"])
    for s in studies:
        for i, row in enumerate(s.rows):
            rows.writerows([s.title, i, name, value] for name, value in zip(s.header, row))
    (RESULTS / "clusters.csv").write_text(out.getvalue())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orrery", default="build/release/orrery")
    parser.add_argument("--only", default="")
    parser.add_argument("--laws", action="store_true")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(str(pathlib.Path(options.orrery).resolve()), folder)
        every = [*cluster_studies.STUDIES, *cluster_context.STUDIES, *cluster_exchange.STUDIES, cluster_network.one_network]
        chosen = [s for s in every if options.only in s.__name__ and not options.laws]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            studies = list(pool.map(lambda study: study(bench), chosen))
        if options.only:
            print("\n".join(section(s) for s in studies))
            return 0
        studies.append(cluster_studies.collectives(ROOT))
        laws = [(name, *law(bench)) for name, law in cluster_laws.LAWS]
    if not options.laws:
        write(studies, laws)
    print(f"{len(studies)} studies, {bench.runs} runs, {time.monotonic() - began:.0f} s")
    for name, ok, seen in laws:
        print(f"{'holds ' if ok else 'FAILS '} {name}: {seen}")
    return 0 if all(ok for _, ok, _ in laws) else 7


if __name__ == "__main__":
    sys.exit(main())
