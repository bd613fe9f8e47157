#!/usr/bin/env python3
"""What `orrery simulate --out` writes, read as other people's scripts would: outputs_test.py ORRERY_BINARY SOURCE_DIR"""
import csv
import json
import math
import os
import pathlib
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

BINARY, SOURCE = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])

SCENARIO = """deployment:
  hardware: h200
  model: qwen3-8b
  engine: vllm-0.24
  replicas: 2
workload:
  trace: trace.jsonl
slo: {ttft_ms: 200, tpot_ms: 20}
"""


def generated(requests):
    """The scenario with a workload as long as one likes."""
    return SCENARIO.replace("trace: trace.jsonl",
        f"generator: {{requests: {requests}, arrivals: {{process: poisson, rate: 20}}, "
        "input: {distribution: fixed, value: 500}, output: {distribution: fixed, value: 100}}")


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, math.floor(p * len(values)))]


def read_csv(path):
    with path.open() as lines:
        return list(csv.DictReader(lines))


class Outputs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="orrery-outputs-"))
        cls.trace = [{"timestamp": 40 * i, "input_length": 50 + 37 * i % 3000, "output_length": 1 + 13 * i % 90} for i in range(300)]
        for i in range(0, 300, 5):
            cls.trace[i]["max_output_tokens"] = cls.trace[i]["output_length"] + 7
        (cls.folder / "scenario.yaml").write_text(SCENARIO)
        (cls.folder / "trace.jsonl").write_text("".join(json.dumps(r) + "\n" for r in cls.trace))
        first = cls.launch("simulate", "scenario.yaml", "--out", "out", "--outputs", "all", "--itl", "--steps-csv", "--intervals", "4")
        assert first.returncode == 0, first.stderr
        cls.out = cls.folder / "out"
        cls.summary = json.loads((cls.out / "summary.json").read_text())
        cls.rows = read_csv(cls.out / "requests.csv")

    @classmethod
    def launch(cls, *arguments):
        return subprocess.run([BINARY, *arguments], cwd=cls.folder, capture_output=True, text=True)

    def call(self, *arguments, code=0):
        p = self.launch(*arguments)
        self.assertEqual(p.returncode, code, p.stderr)
        return p

    def test_files(self):
        self.assertEqual(sorted(p.name for p in self.out.iterdir()),
                         ["report.html", "requests.csv", "scenario.resolved.yaml", "steps.csv", "summary.json", "trace.json"])
        for path in self.out.iterdir():
            self.assertTrue(path.read_bytes().endswith(b"\n"), path)
        self.call("simulate", "scenario.yaml", "--out", "short", "--outputs", "summary", "--intervals", "off")
        self.assertIn("summary.json", [p.name for p in (self.folder / "short").iterdir()])
        self.assertNotIn("requests.csv", [p.name for p in (self.folder / "short").iterdir()])

    def test_requests(self):
        header = (self.out / "requests.csv").read_text().splitlines()[0]
        self.assertEqual(header, "request,arrival_s,prompt_tokens,output_tokens,cached_tokens,queue_s,ttft_s,e2e_s,tpot_ms,"
                                 "instance,preemptions,status,itl_p50_ms,itl_p99_ms,itl_max_ms")
        self.assertEqual([int(r["request"]) for r in self.rows], list(range(300)))
        for row, asked in zip(self.rows, self.trace):
            self.assertEqual(int(row["prompt_tokens"]), asked["input_length"])
            self.assertEqual(int(row["output_tokens"]), asked["output_length"])
            self.assertEqual(row["arrival_s"], f"{asked['timestamp'] / 1000:.9f}")
            self.assertEqual(row["status"], "completed")
            queue, ttft, e2e = (round(float(row[k]) * 1e9) for k in ("queue_s", "ttft_s", "e2e_s"))
            self.assertTrue(0 <= queue < ttft <= e2e)
            if asked["output_length"] == 1:
                self.assertEqual((row["tpot_ms"], ttft), ("", e2e))
            else:
                self.assertAlmostEqual(float(row["tpot_ms"]) * 1e6, (e2e - ttft) / (asked["output_length"] - 1), delta=1)
                self.assertLessEqual(float(row["itl_p50_ms"]), float(row["itl_p99_ms"]))
                self.assertLessEqual(float(row["itl_p99_ms"]), float(row["itl_max_ms"]))

    def test_summary(self):
        s = self.summary
        for key in ("requests", "duration_s", "ttft_ms", "tpot_ms", "itl_ms", "e2e_ms", "throughput", "goodput", "kv_cache",
                    "prefix_cache_hit_rate", "preemptions", "steps", "interval_90", "provenance", "cost", "simulator", "digest",
                    "seed", "version"):
            self.assertIn(key, s)
        self.assertEqual(s["requests"]["completed"], 300)
        ttft = [float(r["ttft_s"]) * 1e3 for r in self.rows]
        for name, p in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
            self.assertAlmostEqual(s["ttft_ms"][name], percentile(ttft, p), places=5)
        self.assertAlmostEqual(s["ttft_ms"]["mean"], sum(ttft) / 300, places=5)
        self.assertAlmostEqual(s["ttft_ms"]["max"], max(ttft), places=5)
        tpot = [float(r["tpot_ms"]) for r in self.rows if r["tpot_ms"]]
        self.assertAlmostEqual(s["tpot_ms"]["p50"], percentile(tpot, 0.5), places=5)
        ends = [float(r["arrival_s"]) + float(r["e2e_s"]) for r in self.rows]
        self.assertAlmostEqual(s["duration_s"], max(ends), places=6)
        tokens = sum(int(r["output_tokens"]) for r in self.rows)
        self.assertAlmostEqual(s["throughput"]["output_tokens_per_s"], tokens / s["duration_s"], places=3)
        met = sum(float(r["ttft_s"]) <= 0.2 and (not r["tpot_ms"] or float(r["tpot_ms"]) <= 20) for r in self.rows)
        self.assertAlmostEqual(s["goodput"]["attainment"], met / 300, places=9)
        self.assertAlmostEqual(sum(s["provenance"].values()), 1, places=9)
        for metric, (low, high) in s["interval_90"].items():
            group, _, name = metric.partition(".")
            self.assertTrue(low <= s[group][name] <= high, metric)
        self.assertLess(s["interval_90"]["ttft_ms.p50"][0], s["interval_90"]["ttft_ms.p50"][1])
        low, high = s["interval_90"]["kv_cache.tokens"]
        self.assertLess(low, s["kv_cache"]["tokens"])
        self.assertLess(s["kv_cache"]["tokens"], high)

    def test_energy(self):
        self.assertIsNone(self.summary["energy"])
        self.call("simulate", "scenario.yaml", "--out", "energy", "--outputs", "summary", "--intervals", "off", "--energy")
        energy = json.loads((self.folder / "energy" / "summary.json").read_text())["energy"]
        nominal, low, high = energy["joules_per_output_token"]
        self.assertTrue(0 < low < nominal < high)

    def test_steps(self):
        steps = read_csv(self.out / "steps.csv")
        self.assertEqual(sum(int(r["steps"]) for r in steps), self.summary["steps"])
        # Every prompt token is computed once (nothing is cached or preempted here), every output token but the first
        # of each request is one decode; an EOS wastes at most one more.
        self.assertEqual(self.summary["preemptions"], 0)
        prompt = sum(int(r["prompt_tokens"]) for r in self.rows)
        decodes = sum(int(r["output_tokens"]) - 1 for r in self.rows)
        self.assertEqual(sum(int(r["prefill_tokens"]) for r in steps), prompt)
        done = sum(int(r["decode_sequences"]) * int(r["steps"]) for r in steps)
        self.assertTrue(decodes <= done <= decodes + 60, f"{decodes} output tokens behind the first, {done} computed")
        for r in steps:
            self.assertLessEqual(float(r["schedule_begin_s"]), float(r["device_begin_s"]))
            self.assertLess(float(r["device_begin_s"]), float(r["device_end_s"]))
            self.assertLessEqual(float(r["device_end_s"]), float(r["update_end_s"]))

    def test_trace(self):
        events = json.loads((self.out / "trace.json").read_text())["traceEvents"]
        self.assertLessEqual(len(events), 200_000)
        self.assertEqual({e["ph"] for e in events}, {"M", "X", "C", "b", "e"})
        begins = [e for e in events if e["ph"] == "b"]
        self.assertEqual({e["id"] for e in begins}, set(range(300)))
        self.assertEqual(len(begins), sum(e["ph"] == "e" for e in events))
        for process in (1, 2):  # a device runs one step at a time
            slices = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["ph"] == "X" and e["pid"] == process)
            for (_, end), (begin, _) in zip(slices, slices[1:]):
                self.assertLessEqual(end, begin + 1e-3)

    def test_report(self):
        page = (self.out / "report.html").read_text()
        body = re.sub(r'<script[^>]*id="plotly"[^>]*>.*?</script>', "", page, flags=re.S)
        self.assertIsNone(re.search(r'(src|href)\s*=\s*["\']?(https?:)?//', body))
        self.assertIn("default-src 'none'", body)
        data = json.loads(re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', body, re.S).group(1))
        self.assertEqual(set(data["curves"]), {"ttft", "e2e", "tpot", "itl"})
        self.assertIn("orrery simulate", body)

    def test_report_escapes_what_the_user_wrote(self):
        nasty = self.folder / "x<script>alert(1)<&script>.yaml"
        nasty.write_text(SCENARIO + "# </script><script>alert(2)</script>\n")
        self.call("simulate", nasty.name, "--out", "nasty", "--intervals", "off")
        page = (self.folder / "nasty" / "report.html").read_text()
        self.assertNotIn("<script>alert", page)

    def test_equal_runs_write_equal_bytes(self):
        self.call("simulate", "scenario.yaml", "--out", "again", "--outputs", "all", "--itl", "--steps-csv", "--intervals", "4",
                  "--threads", "2")
        for name in ("requests.csv", "steps.csv", "trace.json", "scenario.resolved.yaml"):
            self.assertEqual((self.out / name).read_bytes(), (self.folder / "again" / name).read_bytes(), name)
        other = json.loads((self.folder / "again" / "summary.json").read_text())
        self.assertEqual({**self.summary, "simulator": 0}, {**other, "simulator": 0})

    def test_resolved_scenario_runs_to_the_same_digest(self):
        self.call("simulate", "out/scenario.resolved.yaml", "--out", "resolved", "--intervals", "off")
        self.assertEqual(json.loads((self.folder / "resolved" / "summary.json").read_text())["digest"], self.summary["digest"])

    def test_explain(self):
        story = json.loads(self.call("explain", "out", "--request", "7", "--json").stdout)
        row = self.rows[7]
        self.assertAlmostEqual(story["ttft_s"], float(row["ttft_s"]), places=9)
        kinds = [e["event"] for e in story["events"]]
        self.assertEqual(kinds[0], "arrived")
        self.assertEqual(kinds[-1], "finished")
        self.assertEqual(story["digest"], self.summary["digest"])
        self.assertIn("7", self.call("explain", "out", "--request", "7").stdout)
        self.assertIn("300", self.call("explain", "out", "--request", "300", code=2).stderr)

    def test_diff(self):
        self.assertIn("same", self.call("diff", "out", "out").stdout.lower())
        self.call("simulate", "scenario.yaml", "--out", "one", "--intervals", "off", "--set", "deployment.replicas=1")
        difference = json.loads(self.call("diff", "out", "one", "--json").stdout)
        self.assertTrue(any("replicas" in json.dumps(d) for d in difference["scenario"]), difference.keys())

    def test_a_pipe_is_read_once(self):
        trace = (self.folder / "trace.jsonl").read_text()
        def piped(*options):
            return subprocess.run([BINARY, "simulate", "scenario.yaml", "--trace", "/dev/stdin", *options], cwd=self.folder,
                                  input=trace, capture_output=True, text=True)
        refused = piped()
        self.assertEqual(refused.returncode, 3)
        self.assertIn("/dev/stdin: is a pipe", refused.stderr)
        self.assertEqual(json.loads(piped("--intervals", "off", "--json").stdout)["digest"], self.summary["digest"])

    def test_a_long_run_says_which_percentiles_are_binned(self):
        (self.folder / "many.yaml").write_text(generated(12_000))
        s = json.loads(self.call("simulate", "many.yaml", "--json", "--intervals", "off").stdout)
        self.assertEqual(s["percentiles"], "exact but for itl_ms: histogram, relative error at most 0.05 %")

    def test_a_run_that_rejects_everything_takes_no_time(self):
        (self.folder / "late.jsonl").write_text('{"timestamp": 5000, "input_length": 100, "output_length": 10}\n')
        self.call("simulate", "scenario.yaml", "--trace", "late.jsonl", "--out", "none", "--outputs", "all", "--intervals", "off",
                  "--set", "deployment.engine_args.max_model_len=50")
        s = json.loads((self.folder / "none" / "summary.json").read_text())
        self.assertEqual((s["requests"]["rejected"], s["duration_s"], s["ttft_ms"]), (1, 0, None))

    def test_a_warm_up_is_served_and_not_measured(self):
        """The same run, to the bit; metrics are those of the requests that arrive after the window."""
        (self.folder / "warm.yaml").write_text(SCENARIO.replace("trace: trace.jsonl", "trace: trace.jsonl\n  warmup_s: 4.02"))
        p = self.launch("simulate", "warm.yaml", "--out", "warm", "--intervals", "2")
        self.assertEqual(p.returncode, 0, p.stderr)
        self.assertIn("101 more in the warm-up", p.stdout)
        s = json.loads((self.folder / "warm" / "summary.json").read_text())
        self.assertEqual(s["digest"], self.summary["digest"])
        self.assertEqual((s["steps"], s["prefix_cache_hit_rate"]),
                         (self.summary["steps"], self.summary["prefix_cache_hit_rate"]))
        rows = read_csv(self.folder / "warm" / "requests.csv")
        self.assertEqual(len(rows), 300)
        measured = [r for r in rows if float(r["arrival_s"]) >= 4.02]
        self.assertEqual((len(measured), s["requests"]["completed"], s["warmup"]["requests"]), (199, 199, 101))
        self.assertAlmostEqual(s["warmup"]["measured_from_s"], 4.04)
        for key in ("ttft", "e2e"):
            values = [float(r[key + "_s"]) * 1e3 for r in measured]
            self.assertAlmostEqual(s[key + "_ms"]["p99"], percentile(values, 0.99), places=5)
            self.assertAlmostEqual(s[key + "_ms"]["mean"], sum(values) / len(values), places=5)
        span = max(float(r["arrival_s"]) + float(r["e2e_s"]) for r in measured) - 4.04
        self.assertAlmostEqual(s["duration_s"], span, places=6)
        tokens = sum(int(r["output_tokens"]) for r in measured)
        self.assertAlmostEqual(s["throughput"]["output_tokens_per_s"], tokens / span, places=3)
        met = [r for r in measured if float(r["ttft_s"]) <= 0.2 and (not r["tpot_ms"] or float(r["tpot_ms"]) <= 20)]
        self.assertAlmostEqual(s["goodput"]["attainment"], len(met) / len(measured), places=9)
        self.assertIsNone(self.summary["warmup"])
        (self.folder / "warm.yaml").write_text(SCENARIO.replace("trace: trace.jsonl", "trace: trace.jsonl\n  warmup_s: 12"))
        p = self.launch("simulate", "warm.yaml", "--out", "never")
        self.assertEqual(p.returncode, 3)
        self.assertIn("workload.warmup_s", p.stderr)
        self.assertIn("nothing is measured", p.stderr)
        self.assertFalse((self.folder / "never").exists())

    def test_a_profile_of_ones_own_sets_the_price(self):
        profile = pathlib.Path(SOURCE, "hardware_profiles", "h200.yaml").read_text()
        (self.folder / "ours.yaml").write_text(profile + 'price: {value: 3.5, unit: USD/h, kind: assumed, source: "our contract"}\n')
        self.call("simulate", "scenario.yaml", "--out", "priced", "--intervals", "off", "--set", "deployment.hardware=ours.yaml")
        s = json.loads((self.folder / "priced" / "summary.json").read_text())
        self.assertEqual(s["digest"], self.summary["digest"])
        self.assertAlmostEqual(s["cost"]["usd"], s["duration_s"] / 3600 * 3.5 * 2, places=9)
        self.call("explain", "priced", "--request", "7")
        self.assertIn("nothere.yaml: no such file", self.call("simulate", "scenario.yaml", "--set", "deployment.hardware=nothere.yaml",
                                                             code=3).stderr)

    def test_find_rate(self):
        found = json.loads(self.call("simulate", "scenario.yaml", "--find-rate", "--json", "--intervals", "off").stdout)["find_rate"]
        self.assertTrue(found["found"])
        self.assertTrue(any(p["meets"] for p in found["tried"]) and any(not p["meets"] for p in found["tried"]))
        self.call("simulate", "scenario.yaml", "--find-rate", "--intervals", "off", "--set", "slo.ttft_ms=0.001", code=5)

    def test_options_of_the_command_line_are_in_the_resolved_scenario(self):
        """--seed and --trace belong to the run, so explain must find them there."""
        (self.folder / "made.yaml").write_text(generated(300))
        (self.folder / 'a "b" c.jsonl').write_text((self.folder / "trace.jsonl").read_text())
        self.call("simulate", "made.yaml", "--seed", "7", "--out", "seed7", "--intervals", "off")
        self.call("explain", "seed7", "--request", "5")
        self.call("simulate", "made.yaml", "--trace", 'a "b" c.jsonl', "--out", "other", "--intervals", "off")
        self.assertEqual(json.loads(self.call("explain", "other", "--request", "5", "--json").stdout)["prompt_tokens"],
                         self.trace[5]["input_length"])

    def test_a_resampled_workload_is_found_from_the_output_directory(self):
        (self.folder / "again.yaml").write_text(SCENARIO.replace("trace: trace.jsonl",
            "generator: {requests: 50, resample: trace.jsonl, arrivals: {process: poisson, rate: 20}}"))
        self.call("simulate", "again.yaml", "--out", "resampled", "--intervals", "off")
        self.call("explain", "resampled", "--request", "5")

    def test_outputs_of_an_earlier_run_do_not_stay(self):
        """They would pass for this run's: a requests.csv beside another run's summary.json."""
        self.call("simulate", "scenario.yaml", "--out", "used", "--outputs", "all", "--steps-csv", "--intervals", "off")
        (self.folder / "used" / "notes.txt").write_text("mine")
        self.call("simulate", "scenario.yaml", "--out", "used", "--outputs", "summary", "--intervals", "off")
        self.assertEqual(sorted(os.listdir(self.folder / "used")), ["notes.txt", "scenario.resolved.yaml", "summary.json"])

    def interrupt(self, after_s, *arguments):
        p = subprocess.Popen([BINARY, *arguments], cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(after_s)
        p.send_signal(signal.SIGINT)
        error = p.communicate(timeout=60)[1]
        self.assertEqual(p.returncode, 130, error)
        self.assertIn("interrupted", error)
        return [n for n in os.listdir(self.folder) if n.startswith("cut")]

    def test_interrupt_leaves_nothing_half_written(self):
        (self.folder / "long.yaml").write_text(generated(30_000_000))
        (self.folder / "long.jsonl").write_text('{"prefill": [[2048, 0]], "decode": {"sequences": 9, "context_tokens": 999}}\n' * 3_000_000)
        self.assertFalse(self.interrupt(1, "simulate", "long.yaml", "--out", "cut"))
        self.assertFalse(self.interrupt(1, "trace", "generate", "long.yaml", "cut.jsonl.zst"))
        self.assertFalse(self.interrupt(0.5, "cost", "long.yaml", "--steps", "long.jsonl", "--out", "cut.csv"))

    def test_interrupt_behind_the_run_keeps_the_run(self):
        (self.folder / "kept.yaml").write_text(generated(20_000))
        kept = self.interrupt(3, "simulate", "kept.yaml", "--intervals", "10000", "--out", "cut")
        self.assertEqual(kept, ["cut"])
        summary = json.loads((self.folder / "cut" / "summary.json").read_text())
        self.assertEqual((summary["requests"]["completed"], summary["interval_90"]), (20_000, None))
        shutil.rmtree(self.folder / "cut")

    def test_progress_counts_requests_and_leaves_the_terminal(self):
        (self.folder / "watched.yaml").write_text(generated(400_000))
        terminal, end = pty.openpty()
        p = subprocess.Popen([BINARY, "simulate", "watched.yaml", "--intervals", "off"], cwd=self.folder,
                             stdout=end, stderr=end)
        os.close(end)
        shown = b""
        try:
            while more := os.read(terminal, 1 << 16):
                shown += more
        except OSError:  # the terminal's way to say that nobody writes any more
            pass
        self.assertEqual(p.wait(), 0)
        lines = shown.decode().replace("\r", "\n").splitlines()
        counts = [int(m.group(1).replace(",", "")) for m in map(re.compile(r".*simulating: ([\d,]+) of 400,000").match, lines) if m]
        self.assertTrue(counts and counts == sorted(counts) and counts[-1] > 0, lines[:5])
        self.assertFalse([l for l in lines if "simulating" in l and "qwen3-8b" in l])

    def test_messages_obey_level_and_colour(self):
        quiet = self.call("simulate", "scenario.yaml", "--intervals", "off").stderr
        told = self.call("simulate", "scenario.yaml", "--intervals", "off", "--log-level", "info").stderr
        self.assertEqual(quiet, "")
        self.assertIn("orrery: info: scenario.yaml: qwen3-8b", told)
        self.assertNotIn("\033", self.call("simulate", "no.yaml", code=3).stderr)
        self.assertIn("\033[1;31morrery:\033[0m no.yaml", self.call("simulate", "no.yaml", "--color", "always", code=3).stderr)

    def test_json_of_tables_and_conversions(self):
        (self.folder / "steps.jsonl").write_text('{"prefill": [[2048, 0]]}\n{"decode": {"sequences": 9, "context_tokens": 999}}\n')
        rows = json.loads(self.call("cost", "scenario.yaml", "--steps", "steps.jsonl", "--json").stdout)
        self.assertEqual([r["step"] for r in rows], [0, 1])
        self.assertTrue(all(r["low_us"] <= r["device_us"] <= r["high_us"] for r in rows))
        done = json.loads(self.call("trace", "convert", "trace.jsonl", "copy.jsonl.gz", "--json").stdout)
        self.assertEqual(done, {"file": "copy.jsonl.gz", "requests": 300, "dropped": 0})

    def test_lost_output_is_no_success(self):
        with open("/dev/full", "w") as full:
            p = subprocess.run([BINARY, "cost", "scenario.yaml"], cwd=self.folder, stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertEqual(p.returncode, 3)
        self.assertIn("standard output cannot be written", p.stderr)

    def test_help_and_commands_to_come(self):
        self.assertIn("--find-rate", self.call("help", "simulate").stdout)
        self.assertIn('did you mean "simulate"', self.call("simulat", "scenario.yaml", code=2).stderr)
        refusal = self.call("doctor", "--all", code=2).stderr
        self.assertIn("`orrery doctor`", refusal)
        self.assertIn("not in this version", refusal)

    def test_attainment_counts_whom_its_interval_counts(self):
        left = SCENARIO.replace("trace: trace.jsonl", "trace: trace.jsonl\n  client: {disconnect: {share: 0.4, after_s: 0.2}}")
        (self.folder / "left.yaml").write_text(left)
        self.call("simulate", "left.yaml", "--out", "left", "--intervals", "2")
        s = json.loads((self.folder / "left" / "summary.json").read_text())
        self.assertGreater(s["requests"]["cancelled"], 20)
        low, high = s["interval_90"]["goodput.attainment"]
        self.assertLessEqual(low, s["goodput"]["attainment"])
        self.assertGreaterEqual(high, s["goodput"]["attainment"])

    def test_json_is_the_summary(self):
        printed = json.loads(self.call("simulate", "scenario.yaml", "--json", "--intervals", "off").stdout)
        self.assertEqual(printed["digest"], self.summary["digest"])

    def test_faults_show_in_every_output(self):
        text = SCENARIO.replace("  replicas: 2\n", "  replicas: 2\n  start: {engine_s: 1, load_gb_per_s: 100}\n"
                                "  on_failure: {detection_s: 0.5}\n")
        (self.folder / "faults.yaml").write_text(text + "faults: [{at_s: 4, kind: gpu, target: {replica: 1}, for_s: 2}]\n")
        self.call("simulate", "faults.yaml", "--out", "faults", "--intervals", "off", "--outputs", "all")
        summary = json.loads((self.folder / "faults" / "summary.json").read_text())
        fleet = summary["fleet"]
        self.assertEqual(fleet["instances_lost"], 1)
        self.assertEqual([(s["instance"], s["state"]) for s in fleet["not_up"]], [(1, "failed"), (1, "starting")])
        self.assertEqual(fleet["not_up"][0]["from_s"], 4)
        self.assertEqual(fleet["not_up"][1]["from_s"], 6)
        self.assertGreater(fleet["requests_lost"], 0)
        self.assertEqual(fleet["retries"], fleet["requests_lost"])
        rows = read_csv(self.folder / "faults" / "requests.csv")
        self.assertEqual([int(r["output_tokens"]) for r in rows], [r["output_length"] for r in self.trace])
        trace = json.loads((self.folder / "faults" / "trace.json").read_text())
        names = [e["name"] for e in trace["traceEvents"] if e.get("tid") == 3]
        self.assertEqual(names, ["failed", "starting"])
        self.assertIn("availability", (self.folder / "faults" / "report.html").read_text())
        self.assertIsNone(self.summary["fleet"])

    def test_prefill_and_decode_apart_say_where_the_first_token_went(self):
        pools = ", ".join(
            f"{{name: {name}, role: {role}, replicas: {n}, hardware: h200, model: qwen3-8b, engine: vllm-0.24}}"
            for name, role, n in (("p", "prefill", 2), ("d", "decode", 1)))
        text = "deployment: {topology: {preset: hopper-8}, pools: [" + pools + "]}\nworkload:\n  trace: trace.jsonl\n"
        (self.folder / "apart.yaml").write_text(text)
        self.call("simulate", "apart.yaml", "--out", "apart", "--intervals", "off", "--outputs", "all")
        parts = ["prefill_queue_s", "prefill_s", "transfer_wait_s", "transfer_s", "decode_queue_s", "first_step_s"]
        rows = read_csv(self.folder / "apart" / "requests.csv")
        ns = lambda row, key: round(float(row[key]) * 1e9)
        for row in rows:
            self.assertEqual(sum(ns(row, part) for part in parts), ns(row, "ttft_s"))
            self.assertEqual(row["instance"], "2")
            self.assertIn(row["prefill_instance"], "01")
        summary = json.loads((self.folder / "apart" / "summary.json").read_text())
        self.assertEqual(summary["transfers"]["pulls"], len(rows))
        mean = summary["transfers"]["ttft_parts_ms"]
        self.assertAlmostEqual(sum(m["mean"] for m in mean.values()), summary["ttft_ms"]["mean"], places=6)
        self.assertEqual([p["first_instance"] for p in summary["kv_cache"]["pools"]], [0, 2])
        self.assertIn("fetches KV", self.call("explain", "apart", "--request", "7").stdout)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
