#!/usr/bin/env python3
"""docs/unverified.md from the kinds of figures in profiles and tables: tools/unverified.py [--check]

--check writes nothing and exits 1 when the file on disk differs: a profile changed and nobody said what it rests on.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIGURE = re.compile(r"\{value: ([^,]+), unit: ([^,]+), kind: (\w+),|value: (\S+)\s+unit: (\S+)\s+kind: (\w+)")
KINDS = ["measured", "published", "datasheet", "derived", "assumed"]


def figures(path):
    """(key path, value, unit, kind) of every figure of a profile, by indentation."""
    stack, found = [], []
    lines = path.read_text(encoding="utf-8").split("\n")
    for i, line in enumerate(lines):
        match = re.match(r"^( *)(?:- )?(\w+):", line)
        if not match or line.lstrip().startswith("#"):
            continue
        depth = len(match.group(1))
        stack = [s for s in stack if s[0] < depth] + [(depth, match.group(2))]
        if "{value:" in line:
            text = line + " " + " ".join(lines[i + 1:i + 3])
        elif re.match(r"^ *value: ", line):
            stack.pop()
            text = " ".join(x.strip() for x in lines[i:i + 3])
        else:
            continue
        figure = FIGURE.search(text)
        if figure:
            value, unit, kind = [a or b for a, b in zip(figure.groups()[:3], figure.groups()[3:])]
            found.append((".".join(s[1] for s in stack), value, unit, kind))
    return found


def tables_of(part):
    out = []
    for path in sorted((ROOT / "hardware_profiles/tables" / part).glob("*/table.yaml")):
        text = path.read_text(encoding="utf-8")
        kind = re.search(r"^kind: (\w+)", text, re.M).group(1)
        origin = re.search(r"^from: (\w+)", text, re.M)
        out.append(f"{path.parent.name} ({kind}{', from ' + origin.group(1) if origin else ''})")
    return ", ".join(out) if out else "none: every price is a roofline"


def rows_of(folder):
    rows = []
    for path in sorted((ROOT / folder).glob("*.yaml")):
        found = figures(path)
        counts = [str(sum(f[3] == kind for f in found)) for kind in KINDS]
        rows.append((path.stem, counts, [f for f in found if f[3] == "assumed"]))
    return rows


def text():
    parts, engines = rows_of("hardware_profiles"), rows_of("engine_profiles")
    out = ["# What nobody has verified", "",
           "Made by `tools/unverified.py` from the kinds of figures in the profiles; a test keeps it current. *measured*: by",
           "Orrery. *published*: measured by somebody else, cited. *assumed*: nobody measured it; the profile says why this value.",
           "", "No AMD GPU, no L40S and no H20 was at hand: no kernel of ours has run on them. Ours were checked and timed on H100 SXM and",
           "H200, where real vLLM ran too (reports/cases). Prices of parts without tables are a roofline with assumed or published efficiencies.", "",
           "| part | " + " | ".join(KINDS) + " | kernel tables |", "|---|" + "--:|" * len(KINDS) + "---|"]
    out += [f"| {name} | " + " | ".join(counts) + f" | {tables_of(name)} |" for name, counts, _ in parts]
    out += ["", "| engine | " + " | ".join(KINDS) + " |", "|---|" + "--:|" * len(KINDS)]
    out += [f"| {name} | " + " | ".join(counts) + " |" for name, counts, _ in engines]
    out += ["", "## Assumed figures", ""]
    for name, _, assumed in parts + engines:
        listed = ", ".join(f"`{key}` {value} {unit}" for key, value, unit, _ in assumed)
        out.append(f"- **{name}**: {listed if listed else 'none'}")
    return "\n".join(out) + "\n"


def main():
    path = ROOT / "docs/unverified.md"
    if "--check" in sys.argv[1:]:
        if not path.exists() or path.read_text(encoding="utf-8") != text():
            print("docs/unverified.md is not what tools/unverified.py makes of the profiles: run it and commit")
            return 1
        return 0
    path.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
