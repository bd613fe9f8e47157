#!/usr/bin/env python3
"""What `orrery plan` says: plan_answers_test.py ORRERY SOURCE_DIR.

The page has the words of recommendation.md and the figures of recommendation.json and asks the network for nothing; limits that
it says are the nearest to relax, relaxed so far, let a choice through; candidates that were all rejected are named with the
nearest of them, and the change that it asks for lets it in.
"""
import html
import html.parser
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from checks import expect, verdict

ORRERY = os.path.abspath(sys.argv[1])
CHARTS = (pathlib.Path(sys.argv[2]) / "third_party/plotly.min.js").exists()
ROOT = pathlib.Path(tempfile.mkdtemp(prefix="orrery-plan-answers-"))
SPACE = """deployment: {hardware: h200, model: qwen3-8b, engine: vllm-0.24, kernels: roofline}
workload:
  generator:
    requests: 120
    arrivals: {process: poisson, rate: 8}
    input: {distribution: fixed, value: 600}
    output: {distribution: fixed, value: 60}
seed: 3
slo: {ttft_ms: 1000, tpot_ms: 20, percentile: 95}
search: {objective: cost, prices: {h200: 4, h100: 2.5}, finalists: 3, draws: 3, vary: {hardware: [h100, h200], parallel.tp: [1, 2]}}
"""


def plan(*settings, out=None):
    words = [w for s in settings for w in ("--set", s)] + (["--out", out] if out else [])
    return subprocess.run([ORRERY, "plan", "space.yaml", *words], cwd=ROOT, capture_output=True, text=True, timeout=100)


class Words(html.parser.HTMLParser):
    """Text of a page by tag, and what it would load."""

    def __init__(self):
        super().__init__()
        self.tags, self.text, self.loads = [], {}, []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [v for k, v in attributes if k in ("src", "href")]

    def handle_endtag(self, tag):
        while self.tags and self.tags.pop() != tag:
            pass

    def handle_data(self, data):
        if self.tags:
            self.text.setdefault(self.tags[-1], []).append(data)


def words_of(text):
    return re.sub(r"[\s|`*#-]+", " ", text).strip()


def answers():
    done = plan(out="good")
    expect(done.returncode == 0, done.stderr)
    answer = json.loads((ROOT / "good/recommendation.json").read_text())
    markdown = (ROOT / "good/recommendation.md").read_text()
    expect(len(answer["alternatives"]) == 2 and answer["alternatives"] == answer["finalists"][1:3], "alternatives")
    expect(answer["verify_command"].startswith("orrery live choice.yaml --endpoint"), answer["verify_command"])
    for sentence in answer["would_change"]:
        expect(sentence in markdown, f"not in the page: {sentence}")
    # Both limits with their room, and the price at which the dearer part costs as much.
    expect(len(answer["would_change"]) >= 3 and all(f"slo.{k}" in " ".join(answer["would_change"]) for k in ("ttft_ms", "tpot_ms")),
           f"{answer['would_change']}")
    meets = [f for f in answer["finalists"][1:] if f["meets_slo"]]
    flip = re.search(r"GPU hour of (\w+) is ([\d.]+) USD", " ".join(answer["would_change"]))
    if meets and meets[0]["values"]["hardware"] != answer["choice"]["values"]["hardware"]:
        expect(flip and flip[1] == meets[0]["values"]["hardware"], f"no price at which it flips: {answer['would_change']}")
        at = {p: 4 if p == "h200" else 2.5 for p in ("h200", "h100")} | {flip[1]: float(flip[2])}
        for factor, first in ((0.97, meets[0]["values"]["hardware"]), (1.03, answer["choice"]["values"]["hardware"])):
            prices = ", ".join(f"{p}: {v * (factor if p == flip[1] else 1)}" for p, v in at.items())
            done = plan(f"search.prices={{{prices}}}", out="flip")
            chosen = json.loads((ROOT / "flip/recommendation.json").read_text())["choice"]["values"]["hardware"]
            expect(chosen == first, f"at {factor} of the price that is said, {chosen} is chosen, not {first}")
    else:
        expect(False, "the space of this test has no two parts in its first two")
    if not CHARTS:
        print("no charts library here: the page is not checked")
        return
    text = (ROOT / "good/recommendation.html").read_text()
    data = re.search(r'id="data">(.*?)</script>', text, re.S)[1]
    expect(json.loads(data) == answer, "the page has other figures than recommendation.json")
    page = Words()
    page.feed(re.sub(r"<script.*?</script>", "", text, flags=re.S))
    expect(not page.loads, f"the page loads {page.loads}")
    said = words_of(" ".join(part for tag, parts in page.text.items() for part in parts if tag not in ("style", "title")))
    bag = set(said.split())
    expect(set(words_of(re.sub(r"```\w*", "", markdown)).split()) <= bag, f"words that the page lacks: "
           f"{set(words_of(re.sub(r'```.*', '', markdown)).split()) - bag}")
    expect(page.text["td"] and len(re.findall("<tr>", text)) == sum(line.startswith("| ") for line in markdown.splitlines()), "rows of tables")


def relaxed():
    for strict in ("slo.ttft_ms=39", "slo.tpot_ms=3.2"):
        done = plan(strict, out="strict")
        expect(done.returncode == 5, f"{strict}: {done.returncode} {done.stderr}")
        advice = re.search(r"Relax (slo\.\w+) to about ([\d.]+\d)", done.stderr)
        expect(advice and advice[1] == strict.split("=")[0] and "too long" in done.stderr, f"{strict}: {done.stderr}")
        expect((ROOT / "strict/recommendation.md").exists() and not (ROOT / "strict/deploy").exists(), f"{strict}: deploys what misses it")
        if advice:
            done = plan(f"{advice[1]}={advice[2]}")
            expect(done.returncode == 0, f"{strict}: with {advice[0]}: {done.stderr}")
            below = plan(f"{advice[1]}={float(advice[2]) * 0.9}")
            expect(below.returncode == 5, f"{strict}: a limit that is a tenth lower is met as well")


def rejected():
    done = plan("search.owned={h200: 1, h100: 1}", "search.vary={hardware: [h100, h200], parallel.tp: [2, 8]}")
    expect(done.returncode == 4 and "nearest is hardware h100, parallel.tp 2" in done.stderr and "own 1 more h100" in done.stderr,
           f"owned: {done.returncode} {done.stderr}")
    done = plan("search.owned={h200: 1, h100: 2}", "search.vary={hardware: [h100, h200], parallel.tp: [2, 8]}")
    expect(done.returncode == 0, f"owned: with one more: {done.stderr}")
    done = plan("slo.tpot_ms=1")
    advice = re.search(r"relax slo\.tpot_ms to more than ([\d.]+\d)", done.stderr)
    expect(done.returncode == 5 and advice, f"bound: {done.returncode} {done.stderr}")
    if advice:  # a bound, from below: just under it nobody is let in, well above it somebody is
        expect(plan(f"slo.tpot_ms={float(advice[1]) * 0.9}").returncode == 5, "bound: below it")
        expect(plan(f"slo.tpot_ms={float(advice[1]) * 3}").returncode == 0, "bound: three times it")
    done = plan("search.vary={hardware: []}")
    expect(done.returncode == 3 and "search.vary.hardware" in done.stderr, f"empty: {done.returncode} {done.stderr}")
    done = plan("deployment.model=deepseek-r1", "search.vary={hardware: [h100, h200]}")
    expect(done.returncode == 4 and "does not fit" in done.stderr, f"memory: {done.returncode} {done.stderr}")


def main():
    (ROOT / "space.yaml").write_text(SPACE)
    answers()
    relaxed()
    rejected()
    return verdict()


if __name__ == "__main__":
    sys.exit(main())
