#!/usr/bin/env python3
"""`live` and `replay` from the command line: live_command_test.py ORRERY SOURCE_DIR.

A tape replays to the simulation's digest, a cut or forged one does not; a mock server and the load generator meet on loopback, and
leave the files and exit codes that docs/live.md says.
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import urllib.request

orrery, source = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
folder = pathlib.Path(tempfile.mkdtemp(prefix="orrery-live-"))
wrong = []

SCENARIO = """deployment: {hardware: h200, model: qwen3-0.6b, engine: vllm-0.24}
workload:
  generator: {requests: 20, arrivals: {process: poisson, rate: 40}, input: {distribution: fixed, value: 200}, output: {distribution: fixed, value: 20}}
"""
(folder / "s.yaml").write_text(SCENARIO)


def call(*arguments, code=0, environment=None):
    p = subprocess.run([orrery, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=120,
                       env={**os.environ, **(environment or {})})
    if p.returncode != code:
        wrong.append(f"{' '.join(map(str, arguments))}: exit code {p.returncode}, expected {code}: {p.stderr[:300]}")
    return p


def expect(what, true):
    if not true:
        wrong.append(what)


def own_tables():
    """As `live --update-calibration` leaves them, beside the scenario."""
    (folder / "own").mkdir()
    (folder / "own/table.yaml").write_text("hardware: h200\nkernels: own\nbase: orrery\nkind: measured\nsource: a test\n")
    (folder / "own/corrections.csv").write_text("op,x,factor\ngemm/bf16,1,2\n")
    (folder / "own.yaml").write_text(SCENARIO.replace("vllm-0.24}", "vllm-0.24, kernels: ./own/}"))

    def device_us(*more):
        out = json.loads(call("--json", "cost", *more, "--step", "decode 8@500").stdout)
        return sum(line["time_us"] for line in out["steps"][0]["operators"] if line["class"] == "gemm")

    plain = device_us("s.yaml", "--set", "deployment.kernels=orrery")
    for own in (device_us("own.yaml"), device_us("s.yaml", "--set", "deployment.kernels=./own")):
        expect(f"products by tables of one's own take twice {plain}: {own}", abs(own / plain - 2) < 0.05)
    p = call("cost", "s.yaml", "--step", "decode 8@500", "--set", "deployment.kernels=./none", code=3)
    expect(f"tables that are not there are named: {p.stderr}", "none/table.yaml" in p.stderr)
    # Whether they can be corrected is said before a device is asked for.
    update = ["--executor", "kernel", "--profile-steps", 4, "--update-calibration", "--out", "updated"]
    for kernels in ("./own", "roofline"):
        p = call("live", "s.yaml", *update, "--set", "deployment.engine=orrery", "--set", f"deployment.kernels={kernels}", code=3)
        expect(f"which tables are corrected: {p.stderr}", "deployment.kernels" in p.stderr)


def tapes():
    ran = json.loads(call("--json", "simulate", "s.yaml", "--intervals", "off", "--tape", "run.tape").stdout)
    replayed = json.loads(call("--json", "replay", "run.tape").stdout)
    expect(f"the replay's digest {replayed} is the run's {ran['digest']}", replayed["digest"] == ran["digest"])
    expect("the replay has the run's steps", replayed["steps"] == ran["steps"] and replayed["requests"] == 20)
    # The scenario is on the tape, and its trace is not needed again.
    (folder / "s.yaml").rename(folder / "away.yaml")
    call("replay", "run.tape")
    (folder / "away.yaml").rename(folder / "s.yaml")
    tape = (folder / "run.tape").read_bytes()
    (folder / "cut.tape").write_bytes(tape[:len(tape) * 3 // 4])
    p = call("replay", "cut.tape", code=3)
    expect("a cut tape's last good step is named", "cut.tape" in p.stderr and "last good step: " in p.stderr)
    (folder / "bad.tape").write_bytes(tape[:-100] + bytes([tape[-100] ^ 1]) + tape[-99:])
    expect("damage is named", "damaged" in call("replay", "bad.tape", code=3).stderr)
    # In real time: the same decisions.
    waited = json.loads(call("--json", "live", "s.yaml", "--executor", "cost-model", "--tape", "wall.tape").stdout)
    expect("a clock that waits decides as one that jumps", waited["digest"] == ran["digest"])
    expect("its lateness is said", waited["loop_lateness_ms"]["max"] >= 0)
    call("replay", "wall.tape")


def compared_again(out):
    """What --endpoint left is compared once more, and is refused where it is something else."""
    again = json.loads(call("--json", "live", "s.yaml", "--measured", "out", "--out", "again").stdout)
    for name, metric in out.items():
        if name.endswith((".mean", ".p50", ".p99")) or name == "kv_cache.blocks":
            for key in ("predicted", "low", "high", "measured"):
                was, now = metric[key], again[name][key]
                expect(f"{name}: {key} {now} is {was}", was == now or abs(now - was) <= 1e-9 * abs(was))
    for name in ("verdict", "missed"):
        expect(f"{name}: {again[name]} is {out[name]}", again[name] == out[name])
    expect("the client was as late", again["client"]["late"] == out["client"]["late"])
    expect("the same rows", (folder / "again/measured.csv").read_text() == (folder / "out/measured.csv").read_text())
    p = call("live", "s.yaml", "--measured", "out", "--set", "workload.generator.output.value=21", code=3)
    expect(f"another workload is named, with the row: {p.stderr}", "out/measured.csv:2:1" in p.stderr and "another workload" in p.stderr)
    (folder / "cut").mkdir()
    (folder / "cut/comparison.json").write_text((folder / "out/comparison.json").read_text())
    (folder / "cut/measured.csv").write_text((folder / "out/measured.csv").read_text().replace(",completed", "", 1))
    expect("a row that is none", "cut/measured.csv:2:1" in call("live", "s.yaml", "--measured", "cut", code=3).stderr)
    call("live", "s.yaml", "--measured", "out", "--steps", "nowhere", code=3)
    p = call("live", "s.yaml", "--measured", "out", "--update-calibration", code=2)
    expect("what an update needs is said", "--steps" in p.stderr)
    call("live", "s.yaml", "--measured", "out", "--endpoint", "http://127.0.0.1:1", code=2)
    call("live", "s.yaml", "--measured", "out", "--intervals", "few", code=2)
    call("live", "s.yaml", "--executor", "cost-model", "--intervals", "4", code=2)
    p = call("live", "s.yaml", "--executor", "cost-model", "--profile-steps", "4", code=2)
    expect(f"launches are the kernels': {p.stderr}", "--executor kernel" in p.stderr)
    call("live", "s.yaml", "--profile-steps", "4", "--update-calibration", code=2)
    # A log of other requests is no evidence.
    steps = source / "reports/cases/h200_vllm_0_24_endpoint/qwen3-8b/steps"
    p = call("live", "s.yaml", "--measured", "out", "--intervals", "off", "--steps", steps, code=3)
    expect(f"the loads that the log has are named: {p.stderr}", "load_4" in p.stderr)


def server_and_client():
    server = subprocess.Popen([orrery, "--json", "live", "s.yaml", "--serve", "--tape", "mock.tape"], cwd=folder, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        url = server.stdout.readline().split()[-1]
        with urllib.request.urlopen(url + "/v1/models", timeout=20) as answer:
            expect("the model is named", json.load(answer)["data"][0]["id"] == "qwen3-0.6b")
        p = call("live", "s.yaml", "--endpoint", url, "--out", "out", "--scrape", "0.1",
                 environment={"ORRERY_API_KEY": "very-secret"})
        out = json.loads((folder / "out/comparison.json").read_text())
        expect("every request completed", out["server"]["completed"] == 20 and out["server"]["requests"] == 20)
        expect(f"a verdict: {out['verdict']}", out["verdict"] in ("inside", "outside", "late"))
        expect("the client says how late it was", out["client"]["lateness_ms"]["p99"] >= 0)
        expect("KV blocks side by side", out["kv_cache.blocks"]["error_percent"] == 0)
        for metric in ("ttft_ms.mean", "tpot_ms.mean", "itl_ms.mean", "throughput.requests_per_s"):
            m = out[metric]
            expect(f"{metric} is complete: {m}", m["low"] <= m["predicted"] <= m["high"] and m["measured"] > 0)
        rows = (folder / "out/measured.csv").read_text().splitlines()
        expect("a row for each request", len(rows) == 21 and all(row.endswith(",1,completed") for row in rows[1:]))
        written = p.stdout + p.stderr + "".join(f.read_text() for f in (folder / "out").iterdir())
        expect("a page", "Predicted against measured" in written)
        expect("no secret is written", "very-secret" not in written)
        compared_again(out)
        # Words of the tokenizer: the server, which counts words, counts the trace's tokens (one is the tokenizer's own).
        call("live", "s.yaml", "--endpoint", url, "--tokenizer", source / "tests/live/tokenizer.json", "--intervals", "off", "--out", "words")
        call("live", "s.yaml", "--endpoint", url, "--tokenizer", source / "tests/live/tokenizer.json", "--prompts", "tokens", code=2)
        counts = [row.split(",")[5] for row in (folder / "words/measured.csv").read_text().splitlines()[1:]]
        expect(f"exact token counts: {counts}", counts == ["199"] * 20)
    finally:
        server.send_signal(signal.SIGINT)
        report, errors = server.communicate(timeout=30)
    expect(f"the server ends well: {server.returncode} {errors}", server.returncode == 0)
    report = json.loads(report)
    expect(f"it served all: {report}", report["requests"] == 40)
    expect("its tape replays", json.loads(call("--json", "replay", "mock.tape").stdout)["digest"] == report["digest"])
    call("live", "s.yaml", "--endpoint", url, code=6)


own_tables()
tapes()
server_and_client()
print("\n".join(wrong) if wrong else "tapes, server and client do as documented")
sys.exit(1 if wrong else 0)
