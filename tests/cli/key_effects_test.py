#!/usr/bin/env python3
"""No key without effect: key_effects_test.py ORRERY SOURCE_DIR [KEY_PREFIX] [--record].

Plays tests/cli/key_effects/*.py. The keys are the reader's own: a key that it does not know is answered with those that it
asked for, so one is put into every map of every scenario of the table, and in place of every scalar. A key without a line
fails the test, and so does a line whose result moves otherwise than it says, or would pass on a run compared with itself.
Lines that say a direction alone move by the amount that stands in key_effects/amounts.csv, as predicted when it was recorded
(--record writes it anew, of the keys with the prefix): by a quarter more or less of it.
"""
import concurrent.futures
import csv
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from key_effects import TABLE, engine_arguments                                             # noqa: E402
from key_effects.effects import BASES, METRICS, Effect, Named, Refused, class_time, operator_time   # noqa: E402

PROBE = "zz_probe"
DIRECTIONS = ("up", "down", "moves")
AMOUNTS = pathlib.Path(__file__).resolve().parent / "key_effects/amounts.csv"
AMOUNT_COLUMNS = ["key", "base", "without", "settings", "metric", "first", "second"]


def lines(count, row):
    return "".join(json.dumps(row(i)) + "\n" for i in range(count))


FILES = {
    "pictures.jsonl": lines(12, lambda i: {"timestamp": 20 * i, "input_length": 100, "output_length": 20, "images": [
        {"width": 1600, "height": 1200, "id": 1 + i % 5, "position": 60},
        {"width": 900, "height": 900, "id": 9, "position": 60}]}),
    "ranked.jsonl": lines(60, lambda i: {"timestamp": 2 * i, "input_length": 300 + 40 * (i % 7), "output_length": 60,
                                         "priority": 20 * (i % 4)}),
    "half_ranked.jsonl": lines(60, lambda i: {"timestamp": 2 * i, "input_length": 300 + 40 * (i % 7), "output_length": 60} | (
        {"priority": 20} if i % 3 else {})),
    "eos.jsonl": lines(60, lambda i: {"timestamp": 2 * i, "input_length": 100, "output_length": 400,
                                      "max_output_tokens": 600, "priority": 20 * (i % 4)}),
    # The second id names the tokens from 500 on; blocks of 32 end inside the first.
    "shared.jsonl": lines(40, lambda i: {"timestamp": 30 * i, "input_length": 1000, "output_length": 20,
                                         "hash_block_size": 500, "hash_ids": [1, 100 + i]}),
    "three.jsonl": lines(3, lambda i: {"timestamp": 100 * i, "input_length": 700, "output_length": 20}),
    # All of the layers alike: the first eight of 128 experts get nearly everything.
    "counts.csv": "layer,expert,count\n" + "".join(
        f"{layer},{expert},{1000 if expert < 8 else 10}\n" for layer in range(48) for expert in range(128)),
    # 33 tokens of one request: eight verifications of three drafts, all accepted.
    "accepted.csv": "request,outputs,proposed,accepted\n" + "".join(f"0,{1 + 4 * i},3,3\n" for i in range(9)),
    "slow.yaml": "name: slow\ndevices:\n" + "".join(
        f"  - {{name: g{i}, kind: gpu, node: 0, index: {i}}}\n" for i in range(2)) +
        "links:\n  - between: [g0, g1]\n    class: pcie\n"
        "    bandwidth: {value: 1, unit: GB/s, kind: assumed, source: \"a test\"}\n"
        "    latency: {value: 1, unit: us, kind: assumed, source: \"a test\"}\n",
}


# ------------------------------------------------------------------ scenarios: settings as --set has them

def flow(text):
    """YAML's flow style, as far as the table writes it."""
    tokens = re.findall(r'"[^"]*"|[{}\[\],]|[^{}\[\],:]+(?::(?! )[^{}\[\],:]+)*|:', text)
    tokens = [t.strip() for t in tokens if t.strip()]

    def value(at):
        if tokens[at] == "{":
            out, at = {}, at + 1
            while tokens[at] != "}":
                key = tokens[at]
                out[key], at = value(at + 2)
                at += tokens[at] == ","
            return out, at + 1
        if tokens[at] == "[":
            out, at = [], at + 1
            while tokens[at] != "]":
                item, at = value(at)
                out.append(item)
                at += tokens[at] == ","
            return out, at + 1
        word = tokens[at]
        if word.startswith('"'):
            return word[1:-1], at + 1
        try:
            return json.loads(word), at + 1
        except ValueError:
            return word, at + 1

    return value(0)[0]


def with_settings(document, settings, data):
    document = json.loads(json.dumps(document).replace("$DATA", data))
    for setting in filter(None, (s.strip() for s in settings.replace("$DATA", data).split(";"))):
        path, text = setting.split("=", 1)
        steps = [int(s) if s.isdigit() else s for s in re.findall(r"[^.\[\]]+", path)]
        at = document
        for step in steps[:-1]:
            at = at[step] if isinstance(step, int) else at.setdefault(step, {})
        at[steps[-1]] = flow(text)
    return document


def maps_of(node, path=""):
    """(path, map) of every map below `node`."""
    if isinstance(node, dict):
        yield path, node
        for key, child in node.items():
            yield from maps_of(child, f"{path}.{key}" if path else key)
    elif isinstance(node, list):
        for i, child in enumerate(node):
            yield from maps_of(child, f"{path}[{i}]")


# ------------------------------------------------------------------------------------- running the binary

class Binary:
    def __init__(self, orrery, folder):
        self.orrery, self.folder, self.done = orrery, pathlib.Path(folder), {}

    def call(self, document, *command):
        """(exit code, standard output, standard error); equal calls are made once."""
        text = json.dumps(document)
        key = (text, command)
        if key not in self.done:
            path = self.folder / f"s{abs(hash(key))}.yaml"
            own = path.with_suffix(f".{threading.get_ident()}")  # equal calls of two threads write one file
            own.write_text(text + "\n")
            own.replace(path)
            args = [str(path) if c == "SCENARIO" else c for c in command]
            ran = subprocess.run([self.orrery, *args], capture_output=True, text=True, timeout=120)
            self.done[key] = (ran.returncode, ran.stdout, ran.stderr)
        return self.done[key]

    def json(self, document, *command):
        code, out, errors = self.call(document, *command)
        if code not in (0, 5):
            raise AssertionError(f"exit code {code}: {errors.strip()[:600]}")
        return json.loads(out)

    def metric(self, document, metric):
        step = re.match(r"cost(?:\[(.*?)\])?:(.*)", metric)
        if step:
            extra = ("--step", step[1]) if step[1] else ()
            cost = self.json(document, "cost", "SCENARIO", "--json", *extra)
            what = step[2]
            if what.startswith("class:"):
                return class_time(cost, what[6:])
            if what.startswith("op:"):
                return operator_time(cost, what[3:])
            return at_path(cost if what.startswith("memory.") else cost["steps"][0], what)
        simulate = ("simulate", "SCENARIO", "--json", "--intervals", "off")
        if metric.startswith("rate:"):
            return at_path(self.json(document, *simulate, "--find-rate"), metric[5:])
        summary = self.json(document, *simulate)
        return METRICS[metric](summary) if metric in METRICS else at_path(summary, metric)


def at_path(node, path):
    for step in path.split("."):
        if node is None:
            return None
        node = node[step]
    return node


# ------------------------------------------------------------------------------------------- what must hold

def holds(effect, a, b):
    """Whether the second run stands to the first as the line says."""
    a, b = a or 0, b or 0
    near = lambda value: math.isclose(b, value, rel_tol=effect.tolerance, abs_tol=effect.tolerance)  # noqa: E731
    if effect.expect == "up":
        return b > a
    if effect.expect == "down":
        return b < a
    if effect.expect == "moves":
        return b != a
    if effect.expect == "becomes":
        return near(effect.amount) and not math.isclose(a, effect.amount, rel_tol=1e-9)
    return near(a * effect.amount if effect.expect == "times" else a + effect.amount) and a != b


def name_of(line):
    return line.key, line.base, line.without, line.settings, line.metric


def directed(table):
    return {name_of(line) for line in table if isinstance(line, Effect) and line.expect in DIRECTIONS}


def stated_amounts():
    if not AMOUNTS.exists():
        return {}
    with open(AMOUNTS, encoding="utf-8", newline="") as file:
        return {tuple(row[c] for c in AMOUNT_COLUMNS[:5]): (float(row["first"]), float(row["second"]))
                for row in csv.DictReader(file)}


def as_stated(stated, a, b):
    """Whether it moved by the stated amount: by ratio, or by difference where there is none."""
    first, second = stated
    if min(a, b, first, second) > 0:
        return abs(math.log(b / a) - math.log(second / first)) <= 0.25 * abs(math.log(second / first)) + 2e-3
    return math.isclose(b - a, second - first, rel_tol=0.25, abs_tol=1e-9)


def check(binary, line, data, amounts):
    """What is wrong with a line of the table; empty when nothing is."""
    if isinstance(line, Named):
        return ""
    base = BASES[line.base]
    if isinstance(line, Refused):
        base = with_settings(base, "", data)
        code, _, errors = binary.call(with_settings(base, line.settings, data), "cost", "SCENARIO", "--json")
        if binary.call(base, "cost", "SCENARIO", "--json")[0] != 0:
            return "refused without it too"
        return "" if code in (3, 4) and line.text in errors else f"not refused as it says: {code} {errors[:400]}"
    first = with_settings(base, line.without, data)
    try:
        a = binary.metric(first, line.metric)
        b = binary.metric(with_settings(first, line.settings, data), line.metric)
    except (AssertionError, KeyError, TypeError) as error:
        return f"{line.metric}: {error}"
    if holds(line, a, a):
        return f"would hold of a run compared with itself ({line.metric} = {a})"
    wanted = f"{line.expect} {line.amount}" if line.amount else line.expect
    if not holds(line, a, b):
        return f"{line.metric}: {a} and then {b}; expected {wanted}"
    if line.expect not in DIRECTIONS:
        return ""
    a, b = a or 0, b or 0
    if amounts.recording:
        amounts.found[name_of(line)] = (a, b)
        return ""
    if name_of(line) not in amounts.stated:
        return f"{line.metric}: {a} and then {b}; no amount is stated (key_effects_test.py … --record states it)"
    first, second = amounts.stated[name_of(line)]
    return "" if as_stated((first, second), a, b) else (
        f"{line.metric}: {a} and then {b}; stated are {first:g} and {second:g} (--record, if the prediction was to move)")


# -------------------------------------------------------------------------------------- the reader's own keys

def normal(path):
    """Keys of a pool are keys of a deployment, but for its name and role."""
    path = re.sub(r"\[\d+\]", "", path)
    path = re.sub(r"^deployment\.(name|role)$", r"deployment.pools.\1", path)
    return re.sub(r"^deployment\.pools\.(?!name$|role$)", "deployment.", path)


def probed(document, places):
    """The document with a key that nobody knows in each of the maps at `places`; what is no map there becomes one."""
    document = json.loads(json.dumps(document))
    for path, node in list(maps_of(document)):
        if path in places:
            node[PROBE] = 1
        for key, child in node.items():
            if not isinstance(child, dict) and f"{path}.{key}" in places:
                node[key] = {PROBE: 1}
    return document


def answers(binary, document):
    """Every key that the reader asked for where it found one that it does not know."""
    _, _, errors = binary.call(document, "cost", "SCENARIO", "--json")
    keys = set()
    for path, known in re.findall(rf": ([^ ]*){PROBE}: unknown (?:key|figure)[^;\n]*; known(?: here)?: (.*)", errors):
        keys |= {normal(path + key) for key in known.split(", ")}
    return keys


def probes(documents):
    """Each document with all of its maps asked at once; and each scalar, once, as if it were a map."""
    tried = set()
    for document in documents:
        skipped = ("deployment.engine_args", "overrides.op_scale")
        maps = [path for path, _ in maps_of(document) if not path.startswith(skipped)]
        yield probed(document, maps)
        for path, node in maps_of(document):
            for key, child in node.items():
                place = f"{path}.{key}" if path else key
                if isinstance(child, dict) or place.startswith(skipped) or normal(place) in tried:
                    continue
                tried.add(normal(place))
                yield probed(document, [place])


def missing_keys(binary, data):
    documents, shapes = [], set()
    for line in TABLE:
        if isinstance(line, Named):
            continue
        first = with_settings(BASES[line.base], "" if isinstance(line, Refused) else line.without, data)
        for document in (first, with_settings(first, line.settings, data)):
            shape = json.dumps(sorted((path, sorted(node)) for path, node in maps_of(document)))
            if shape not in shapes:
                documents.append(document)
            shapes.add(shape)
    keys = set()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(lambda d: answers(binary, d), list(probes(documents))):
            keys |= found
    have = {line.key for line in TABLE}
    inner = {key[:i] for key in have | keys for i, c in enumerate(key) if c == "."} | {"deployment.engine_args"}
    return sorted(keys - have - inner), len(keys)


class Amounts:
    def __init__(self, recording):
        self.recording, self.stated, self.found = recording, stated_amounts(), {}

    def write(self, played):
        others = directed(TABLE) - directed(played)
        kept = {name: amount for name, amount in self.stated.items() if name in others}
        with open(AMOUNTS, "w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(AMOUNT_COLUMNS)
            rows.writerows([*name, f"{a:.6g}", f"{b:.6g}"] for name, (a, b) in sorted((kept | self.found).items()))


def main():
    orrery, source = sys.argv[1], pathlib.Path(sys.argv[2])
    amounts = Amounts("--record" in sys.argv[3:])
    only = next((word for word in sys.argv[3:] if word != "--record"), "")
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for name, text in FILES.items():
            (pathlib.Path(folder) / name).write_text(text)
        shutil.copytree(source / "tests/workloads/fixtures/servegen", pathlib.Path(folder) / "servegen")
        binary = Binary(orrery, folder)
        lines = [line for line in TABLE if line.key.startswith(only)]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for line, problem in zip(lines, pool.map(lambda one: check(binary, one, folder, amounts), lines)):
                if problem:
                    wrong.append(f"{line.key}: {problem}")
        if not only:
            missing, count = missing_keys(binary, folder)
            wrong += [f"{key}: no line in tests/cli/key_effects says what it does" for key in missing]
            missing = engine_arguments(source) - {line.key for line in TABLE}
            wrong += [f"{key}: no line in tests/cli/key_effects says what it does" for key in sorted(missing)]
            stale = set() if amounts.recording else set(amounts.stated) - directed(TABLE)
            wrong += [f"{name[0]}: amounts.csv states an amount of no line ({name[3]})" for name in sorted(stale)]
            print(f"{count} keys known to the reader")
    if amounts.recording:
        amounts.write(lines)
    print("\n".join(wrong))
    kinds = [sum(isinstance(line, kind) for line in lines) for kind in (Effect, Refused, Named)]
    print(f"{kinds[0]} effects, {kinds[1]} refusals, {kinds[2]} without effect by design; {len(wrong)} problems")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
