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
        match = re.match(r"^( *)(- )?(\w+):(?: (\w+)$)?", line)
        if not match or line.lstrip().startswith("#"):
            continue
        # An item of a list is called by what its first key says: several laws, of an architecture each.
        indent, item, key, says = match.groups()
        depth = len(indent)
        stack = [s for s in stack if s[0] < depth] + [(depth, says if item and says else key)]
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


def bases_of(path):
    """Profiles that this one is laid over, the nearest first."""
    out = []
    while match := re.search(r"^base: (\S+)", path.read_text(encoding="utf-8"), re.M):
        path = path.parent / f"{match.group(1)}.yaml"
        out.append(path.stem)
    return out


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


def inherited_of(name):
    """What a profile laid over others has from them: their figures were found for another version, so that they are
    assumed for this one. Key paths count once."""
    folder = ROOT / "engine_profiles"
    bases = bases_of(folder / f"{name}.yaml")
    own = {f[0] for f in figures(folder / f"{name}.yaml")}
    keys = {f[0] for base in bases for f in figures(folder / f"{base}.yaml")} - own
    origin = [base for base in bases if figures(folder / f"{base}.yaml")]
    return len(keys), ", ".join(origin)


def text():
    parts, engines = rows_of("hardware_profiles"), rows_of("engine_profiles")
    out = ["# What nobody has verified", "",
           "Made by `tools/unverified.py` from the kinds of figures in the profiles; a test keeps it current. *measured*: by",
           "Orrery. *published*: measured by somebody else, cited. *assumed*: nobody measured it; the profile says why this value.",
           "", "No AMD GPU, no L40S and no H20 was at hand: no kernel of ours has run on them. Ours were checked and timed on H100 SXM and",
           "H200, where real vLLM ran too (reports/cases). Prices of parts without tables are a roofline with assumed or published efficiencies.", "",
           "| part | " + " | ".join(KINDS) + " | kernel tables |", "|---|" + "--:|" * len(KINDS) + "---|"]
    out += [f"| {name} | " + " | ".join(counts) + f" | {tables_of(name)} |" for name, counts, _ in parts]
    out += ["", "A profile laid over another (`base`) says only what its version has otherwise. All other figures are those of its base,",
            "assumed to hold for it: none was measured on that version.", "",
            "| engine | " + " | ".join(KINDS) + " | taken over, assumed to hold |", "|---|" + "--:|" * len(KINDS) + "---|"]
    taken_over = {name: inherited_of(name) for name, _, _ in engines}
    for name, counts, _ in engines:
        inherited, origin = taken_over[name]
        out.append(f"| {name} | " + " | ".join(counts) + f" | {f'{inherited} of {origin}' if inherited else ''} |")
    out += ["", "## Assumed figures", ""]
    for name, _, assumed in parts + engines:
        listed = [f"`{key}` {value} {unit}" for key, value, unit, _ in assumed]
        inherited, origin = taken_over.get(name, (0, ""))
        if inherited:
            listed.append(f"all {inherited} figures of {origin}, its kernels, kernel tables and host times with them")
        out.append(f"- **{name}**: {', '.join(listed) or 'none'}")
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
