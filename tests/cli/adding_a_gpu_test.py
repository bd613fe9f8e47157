#!/usr/bin/env python3
"""The page docs/adding-a-gpu.md, done: adding_a_gpu_test.py ORRERY SOURCE_DIR.

Its files are written to an empty folder and its commands run there, as a reader would; then what the page claims:
intervals, located errors for figures that are missing, efficiencies of a relative with twice the error.
"""
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ORRERY, SOURCE = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
PAGE = (SOURCE / "docs" / "adding-a-gpu.md").read_text()
wrong = []


def expect(condition, what):
    if not condition:
        wrong.append(what)


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def call(folder, *command, data=SOURCE):
    return subprocess.run([ORRERY, *command], capture_output=True, text=True, timeout=200, cwd=folder,
                          env={**os.environ, "ORRERY_DATA_DIR": str(data)})


def files():
    """`NAME`: and the YAML block behind it."""
    return re.findall(r"`([\w.]+\.yaml)`:\n\n```yaml\n(.*?)```", PAGE, re.S)


def commands(folder):
    for line in "".join(blocks("bash")).splitlines():
        words = [w.strip('"') for w in re.findall(r'"[^"]*"|\S+', line.split("#")[0])]
        if not words:
            continue
        expect(words[0] == "orrery", f"not a command of ours: {line}")
        done = call(folder, *words[1:])
        if done.returncode != 0:
            raise SystemExit(f"{line}: {done.returncode}: {done.stderr}")


def intervals(folder):
    summary = json.loads((folder / "out" / "first" / "summary.json").read_text())
    text = json.dumps(summary)
    expect('"interval' in text, "no interval in summary.json")
    expect(summary["requests"]["completed"] == 200, f"requests: {summary['requests']}")


def located(folder, profile):
    """Each figure that is left out is named, with the file."""
    for key in ("memory_bandwidth", "memory_total", "kernel_floor", "l2", "matrix_rate", "efficiency"):
        lines, kept, skipping = profile.splitlines(), [], False
        for line in lines:
            skipping = line.startswith(key + ":") or (skipping and line.startswith(" "))
            if not skipping:
                kept.append(line)
        (folder / "broken.yaml").write_text("\n".join(kept) + "\n")
        done = call(folder, "cost", "scenario.yaml", "--set", "deployment.hardware=./broken.yaml")
        expect(done.returncode == 3, f"without {key}: exit code {done.returncode}")
        expect("broken.yaml:" in done.stderr and key in done.stderr, f"without {key}: {done.stderr!r}")
    (folder / "broken.yaml").write_text(profile.replace("like: l40s", "like: l40"))
    done = call(folder, "cost", "scenario.yaml", "--set", "deployment.hardware=./broken.yaml")
    expect(done.returncode == 3 and "orrery list hardware" in done.stderr, f"an unknown relative: {done.stderr!r}")


def relative(folder, profile):
    """A relative's efficiencies: of the L40S's own figures they give its own prices; a class of one's own wins."""
    l40s = (SOURCE / "hardware_profiles" / "l40s.yaml").read_text()
    own = l40s[:l40s.index("\nefficiency:")] + "\nefficiency:\n  like: l40s\n"
    (folder / "like.yaml").write_text(own)
    other = blocks("yaml")[1]
    expect(other.startswith("efficiency:"), "the page's second block is no efficiency any more")
    (folder / "faster.yaml").write_text(own.replace("efficiency:\n  like: l40s\n", other))

    def step(hardware):
        done = call(folder, "cost", "scenario.yaml", "--json", "--step", "decode 1@1", "--set",
                    f"deployment.hardware={hardware}", "--set", "deployment.kernels=roofline")
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        return json.loads(done.stdout)["steps"][0]

    plain, like, faster = step("l40s"), step("./like.yaml"), step("./faster.yaml")
    expect(plain["device_us"] == like["device_us"], f"like: {plain['device_us']} != {like['device_us']}")
    expect(faster["device_us"] < 0.97 * like["device_us"], "0.92 of the memory's rate instead of 0.87 saves nothing")

    def width(one):
        return math.log(one["high_us"] / one["low_us"])

    # Memory's error alone moves this step: twice as wide.
    expect(math.isclose(width(like), 2 * width(plain), rel_tol=0.15), f"widths: {width(plain)} {width(like)}")


def listed(folder, profile):
    """A part put beside the others is named, its own relative is not taken at second hand, nor itself in a circle."""
    data = folder / "data"
    data.mkdir()
    for there in SOURCE.iterdir():
        if there.name.endswith("_profiles"):
            (data / there.name).symlink_to(there)
    parts = data / "hardware_profiles"
    parts.unlink()
    parts.mkdir()
    for there in (SOURCE / "hardware_profiles").iterdir():
        (parts / there.name).symlink_to(there)
    (parts / "rtx4090.yaml").write_text(profile)
    for name, like in (("second", "rtx4090"), ("circle", "circle")):
        text = profile.replace("name: rtx4090", f"name: {name}").replace("like: l40s", f"like: {like}")
        (parts / f"{name}.yaml").write_text(text)
        done = call(folder, "cost", "scenario.yaml", "--set", f"deployment.hardware={name}", data=data)
        expect(done.returncode == 3 and f"efficiency.like: {like} has no efficiencies of its own" in done.stderr,
               f"{name} like {like}: {done.returncode}: {done.stderr!r}")
    done = call(folder, "cost", "scenario.yaml", "--set", "deployment.hardware=rtx4090", data=data)
    expect(done.returncode == 0, f"rtx4090 by its name: {done.stderr!r}")


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        found = dict(files())
        expect(set(found) == {"rtx4090.yaml", "scenario.yaml"}, f"files of the page: {sorted(found)}")
        for file, text in found.items():
            (folder / file).write_text(text)
        commands(folder)
        intervals(folder)
        located(folder, found["rtx4090.yaml"])
        relative(folder, found["rtx4090.yaml"])
        listed(folder, found["rtx4090.yaml"])
    for what in wrong:
        print(what)
    raise SystemExit(1 if wrong else 0)


main()
