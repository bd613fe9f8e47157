#!/usr/bin/env python3
"""`orrery list cases` and `orrery validate CASE…` as a user meets them: cases_test.py ORRERY_BINARY SOURCE_DIR"""
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

BINARY, SOURCE = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])


def orrery(*args):
    return subprocess.run([BINARY, *args], capture_output=True, text=True, timeout=300, cwd=tempfile.gettempdir())


def read(folder, name):
    with open(os.path.join(folder, name), encoding="utf-8") as f:
        return f.read()


class Cases(unittest.TestCase):
    def test_list_has_own_runs_and_published_cases_with_their_status(self):
        cases = {c["name"]: c for c in json.loads(orrery("--json", "list", "cases").stdout)}
        own = cases["llama-3.1-8b_bf16_tp1"]
        self.assertIn("our own step log: llama-3.1-8b on h100, vLLM 0.24.0", own["description"])
        self.assertIn("fitted to it: nothing", own["provenance"])
        published = cases["residency-vllm-h100"]
        self.assertIn("published: ", published["description"])
        self.assertIn("qwen3-14b on h100, vLLM 0.23.0", published["description"])
        self.assertIn("runs (7); fitted to it: nothing; https://", published["provenance"])
        refused = cases["blis-vllm-0.15-a100"]["provenance"]
        self.assertIn("refused: needs a hardware profile of the A100", refused)
        self.assertIn("reports/cases/published/blis-vllm-0.15-a100.yaml:", refused)

    def test_cases_named_together_are_predicted_as_each_alone(self):
        def predictions(*names):
            p = orrery("--json", "validate", "--fast", *names)
            self.assertEqual(p.returncode, 0, p.stderr)
            return [(c["id"], c["run"], c["metric"], c["predicted"]) for c in json.loads(p.stdout)["cases"]]

        one, other = "c5-deepseek-r1-steps", "c2-l40s-fp8-block"
        self.assertEqual(predictions(one, other), predictions(one) + predictions(other))
        self.assertEqual(predictions(other, one), predictions(other) + predictions(one))

    def test_a_board_without_intervals_does_not_take_the_place_of_the_committed_one(self):
        with tempfile.TemporaryDirectory() as folder:
            data, results = os.path.join(folder, "data/tree"), os.path.join(folder, "reports/results")
            os.makedirs(os.path.join(data, "reports/cases/published"))
            os.makedirs(results)
            for path in (os.path.join(data, "reports/cases/engine_runs.yaml"), os.path.join(results, "scoreboard.md")):
                with open(path, "w", encoding="utf-8") as f:
                    f.write("runs: []\n")
            for args, kept in ((["--fast"], True), (["--fast", "--out", "out"], True), ([], False)):
                p = subprocess.run([BINARY, "validate", *args], capture_output=True, text=True, timeout=300, cwd=folder,
                                   env={**os.environ, "ORRERY_DATA_DIR": data})
                self.assertEqual(p.returncode, 0, p.stderr)
                self.assertEqual(read(results, "scoreboard.md") == "runs: []\n", kept, args)
            self.assertIn("# Scoreboard", read(os.path.join(folder, "out"), "scoreboard.md"))

    def test_published_rows_are_priced_and_held_to_bars(self):
        header = ("hw,gpus,engine,engine_version,model,quant,tp,ep,pp,dp,disagg,isl,osl,workload,load_type,load_value,"
                  "metric,value,unit,source,locator,note\n")
        row = "H200-SXM,1,vllm,0.24.0,Qwen/Qwen3-8B,BF16,1,,,,0,100,4,2 prompts,concurrency,1,ttft,{},ms,me,here,\n"
        with tempfile.TemporaryDirectory() as folder:
            path, out = os.path.join(folder, "rows.csv"), os.path.join(folder, "out")

            def validate(text, *args):
                with open(path, "w", encoding="utf-8") as f:
                    f.write(text)
                return orrery("validate", "--published", path, "--fast", *args)

            p = validate(header + row.format("0.001"), "--out", out)
            self.assertEqual(p.returncode, 0, p.stderr)
            self.assertEqual(p.stderr, "")  # no progress where there is no terminal
            self.assertEqual(sorted(os.listdir(out)),
                             ["left_out.csv", "prices.jsonl", "scoreboard.csv", "scoreboard.json", "scoreboard.md"])
            case = json.loads(read(out, "scoreboard.json"))["cases"][0]
            self.assertEqual((case["id"], case["metric"], case["verdict"]), ("line 2", "ttft_ms.mean", None))
            self.assertEqual(validate(header + row.format("0.001"), "--bars").returncode, 7)
            self.assertEqual(validate(header + row.format(case["predicted"]), "--bars").returncode, 0)
            p = validate(header + row.format("soon"))
            self.assertEqual(p.returncode, 3)
            self.assertIn("rows.csv:2:", p.stderr)
            self.assertEqual(orrery("validate", "--bars").returncode, 2)

    def test_a_killed_board_goes_on_where_it_stood(self):
        header = ("hw,gpus,engine,engine_version,model,quant,tp,ep,pp,dp,disagg,isl,osl,workload,load_type,load_value,"
                  "metric,value,unit,source,locator,note\n")
        rows = "".join(f"H200-SXM,1,vllm,0.24.0,Qwen/Qwen3-8B,BF16,1,,,,0,{length},200,60 prompts,concurrency,10,tpot,5,ms,"
                       "me,here,\n" for length in range(100, 900, 100))
        with tempfile.TemporaryDirectory() as folder:
            path, out, whole = (os.path.join(folder, name) for name in ("rows.csv", "out", "whole"))
            with open(path, "w", encoding="utf-8") as f:
                f.write(header + rows)
            journal = os.path.join(out, "prices.jsonl")

            def priced():
                try:
                    return read(out, "prices.jsonl").count("\n")
                except FileNotFoundError:
                    return 0

            p = subprocess.Popen([BINARY, "--quiet", "validate", "--published", path, "--out", out])
            while priced() < 4 and p.poll() is None:
                time.sleep(0.002)
            p.send_signal(signal.SIGKILL)
            p.wait()
            before = priced()
            self.assertGreaterEqual(before, 4)
            with open(journal, "a", encoding="utf-8") as f:
                f.write('{"key": "torn')  # what a kill inside a write would leave
            if before < 8:
                self.assertEqual(os.listdir(out), ["prices.jsonl"])
            p = orrery("--log-level", "info", "validate", "--published", path, "--out", out)
            self.assertEqual(p.returncode, 0, p.stderr)
            self.assertIn(f"{before} of 8 runs were priced before", p.stderr)
            self.assertEqual(orrery("validate", "--published", path, "--out", whole).returncode, 0)
            names = sorted(os.listdir(whole))
            self.assertEqual(sorted(os.listdir(out)), names)
            for name in names:
                self.assertEqual(read(out, name), read(whole, name), name)
            # Another question is not answered from it: --fast has no intervals.
            p = orrery("--log-level", "info", "validate", "--published", path, "--fast", "--out", out)
            self.assertNotIn("were priced before", p.stderr)

    def test_intervals_are_fitted_by_one_command_and_used_by_predictions(self):
        header = ("hw,gpus,engine,engine_version,model,quant,tp,ep,pp,dp,disagg,isl,osl,workload,load_type,load_value,"
                  "metric,value,unit,source,locator,note\n")
        # Nobody answers as slowly as these rows say: the upper end must move.
        rows = "".join(f"H100-SXM,1,vllm,0.18.0,Qwen/Qwen3-8B,BF16,1,,,,0,{length},2,2 prompts,concurrency,1,ttft,{value},ms,"
                       "me,here,\n" for length in range(10, 130) for value in range(400, 640, 60))
        scenario = ("deployment:\n  hardware: h100\n  model: qwen3-8b\n  engine: vllm-0.18\nworkload:\n  generator:\n"
                    "    requests: 4\n    arrivals: {process: fixed, rate: 1}\n    input: {distribution: fixed, value: 50}\n"
                    "    output: {distribution: fixed, value: 2}\n")
        with tempfile.TemporaryDirectory() as folder:
            data, table = os.path.join(folder, "data"), os.path.join(folder, "rows.csv")
            os.makedirs(os.path.join(data, "reports/cases/published"))
            for name in ("hardware_profiles", "engine_profiles", "model_profiles"):
                os.symlink(os.path.join(SOURCE, name), os.path.join(data, name))
            for name in ("import_rules.yaml", "engine_runs.yaml"):
                os.symlink(os.path.join(SOURCE, "reports/cases", name), os.path.join(data, "reports/cases", name))
            for path, text in ((table, header + rows), (os.path.join(folder, "s.yaml"), scenario)):
                with open(path, "w", encoding="utf-8") as f:
                    f.write(text)

            def run(*args):
                return subprocess.run([BINARY, *args], capture_output=True, text=True, timeout=300, cwd=folder,
                                      env={**os.environ, "ORRERY_DATA_DIR": data})

            def summary():
                p = run("--json", "simulate", "s.yaml")
                self.assertEqual(p.returncode, 0, p.stderr)
                return json.loads(p.stdout)

            alone = summary()  # without a file of corrections
            self.assertEqual(alone["intervals"]["corrections"], {})
            corrections = []
            for _ in range(2):
                p = run("validate", "--published", table, "--fit-intervals", "--out", "fit")
                self.assertEqual(p.returncode, 0, p.stderr)
                corrections.append(read(data, "reports/cases/interval_corrections.yaml"))
            self.assertEqual(corrections[0], corrections[1])
            self.assertIn("{quantity: ttft_ms, rung: published, part: h100, engine: vllm,", corrections[0])
            moved = summary()
            self.assertEqual(moved["digest"], alone["digest"])
            self.assertEqual(moved["ttft_ms"], alone["ttft_ms"])
            said = moved["intervals"]["corrections"]["ttft_ms.p50"]
            self.assertEqual(said["pool"], "ttft_ms, published, h100 vllm")
            self.assertEqual(said["prices_alone"], alone["interval_90"]["ttft_ms.p50"])
            low, high = moved["interval_90"]["ttft_ms.p50"]
            self.assertLessEqual(low, moved["ttft_ms"]["p50"])
            self.assertGreater(high, 400)
            self.assertNotIn("tpot_ms.p50", moved["intervals"]["corrections"])  # no figure speaks of it
            p = run("validate", "--published", table, "--fit-intervals", "--fast")
            self.assertEqual(p.returncode, 2)

    def test_named_cases_give_a_table_and_three_files(self):
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "out")
            p = orrery("validate", "kv-capacity-h100", "cmontemuino-vllm-mi300x", "--out", out)
            self.assertEqual(p.returncode, 0, p.stderr)
            self.assertIn("measured by others, not used for fitting", p.stdout)
            self.assertIn("· assumed: ", p.stdout)
            self.assertEqual(sorted(os.listdir(out)), ["scoreboard.csv", "scoreboard.json", "scoreboard.md"])
            board = json.loads(read(out, "scoreboard.json"))
            rows = list(csv.DictReader(read(out, "scoreboard.csv").splitlines()))
            self.assertEqual(len(rows), len(board["cases"]))
            for row, case in zip(rows, board["cases"]):
                self.assertEqual((row["id"], row["run"], row["metric"]), (case["id"], case["run"], case["metric"]))
                error = 100 * (case["predicted"] / case["published"] - 1)
                self.assertAlmostEqual(case["error_percent"], error, places=6)
                self.assertAlmostEqual(float(row["error_percent"]), error, places=2)
                if case["low"] is None:
                    self.assertIsNone(case["verdict"])
                else:
                    inside = case["low"] <= case["published"] <= case["high"]
                    narrow = (case["high"] - case["low"]) / 2 <= 0.25 * case["predicted"]
                    self.assertEqual(case["verdict"], "outside" if not inside else "inside" if narrow else "uninformative")
            scored = [c for c in board["cases"] if c["low"] is not None and c["half"] != "fitted"]
            share = sum(c["low"] <= c["published"] <= c["high"] for c in scored) / len(scored) if scored else None
            self.assertEqual(board["coverage"], share)
            self.assertIn("## kv-capacity-h100", read(out, "scoreboard.md"))

    def test_fast_has_no_intervals(self):
        board = json.loads(orrery("--json", "validate", "--fast", "cmontemuino-vllm-mi300x").stdout)
        self.assertTrue(all(c["low"] is None and c["verdict"] is None for c in board["cases"]))

    def test_an_own_run_is_a_case_too(self):
        board = json.loads(orrery("--json", "validate", "qwen3-32b_bf16_tp2").stdout)
        self.assertTrue(board["cases"])
        self.assertTrue(all(c["own"] for c in board["cases"]))
        self.assertEqual(board["by_part"], {})  # no summary of what others measured

    def test_exit_codes(self):
        p = orrery("validate", "residency-vlm-h100")
        self.assertEqual(p.returncode, 2)
        self.assertIn('did you mean "residency-vllm-h100"', p.stderr)
        p = orrery("validate", "blis-vllm-0.15-a100")
        self.assertEqual(p.returncode, 3)
        self.assertIn("blis-vllm-0.15-a100.yaml:", p.stderr)
        self.assertIn('unknown hardware "a100"', p.stderr)
        self.assertEqual(orrery("validate", "blis-vllm-0.15-a100", "kv-capacity-h100").returncode, 0)
        self.assertEqual(orrery("validate", "nofile.yaml").returncode, 3)
        self.assertEqual(orrery("validate", "--engines", "kv-capacity-h100").returncode, 2)
        self.assertEqual(orrery("--set", "seed=2", "validate", "kv-capacity-h100").returncode, 2)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
