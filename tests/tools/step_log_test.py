#!/usr/bin/env python3
"""tools/vllm_step_log.py on a stand-in for vLLM: what is logged is what was served, `orrery` reads it, and no
fault of the logger reaches the server.

  step_log_test.py ORRERY_BINARY SOURCE_DIR
"""
import ast
import collections
import csv
import gzip
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest

BINARY, SOURCE = (os.path.abspath(p) for p in sys.argv[1:3])
FAKE = os.path.join(SOURCE, "tests", "tools", "fake_vllm")
TOOL = os.path.join(SOURCE, "tools", "vllm_step_log.py")
ROOT = tempfile.mkdtemp(prefix="orrery-step-log-")


def run(*words, env=None, code=0):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ORRERY_", "FAKE_", "PYTHON"))}
    clean.update({"PYTHONDONTWRITEBYTECODE": "1", "ORRERY_DATA_DIR": SOURCE, **(env or {})})
    p = subprocess.run(words, capture_output=True, text=True, env=clean, timeout=120)
    if code is not None and p.returncode != code:
        raise AssertionError(f"{words}: exit code {p.returncode}, expected {code}\n{p.stdout}\n{p.stderr}")
    return p


def serve(name, *words, code=0, **env):
    """(result, folder of the log)"""
    log = os.path.join(ROOT, name, "log")
    paths = os.path.join(ROOT, "site") + os.pathsep + FAKE
    return run(sys.executable, os.path.join(FAKE, "serve.py"), *(words or ["1"]), code=code,
               env={"PYTHONPATH": paths, "ORRERY_STEP_LOG": log, **env}), log


def collect(log, name="run", code=0):
    out = os.path.join(os.path.dirname(log), name)
    return run(sys.executable, TOOL, "collect", log, out, "--gap", "0.4", code=code), out


def validate(folder, code=0):
    """(identical steps, steps) by experiment"""
    p = run(BINARY, "--json", "validate", "--schedule", folder, code=code)
    result = json.loads(p.stdout)
    return {e["name"]: (e["identical"], e["steps"]) for e in result["experiments"]}


def table(folder, name):
    with gzip.open(os.path.join(folder, name + ".csv.gz"), "rt") as f:
        return list(csv.DictReader(f))


def served(stdout):
    return [r for line in stdout.splitlines() for r in ast.literal_eval(line)]


def tool():
    """The plugin as a module of its own, with nothing hooked."""
    spec = importlib.util.spec_from_file_location("step_log_under_test", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path):
    with open(path, "rb") as f:
        return f.read()


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)


def rows_of(path):
    return [json.loads(line) for line in read(path).decode().splitlines()]


def rows_file(log, kind="s"):
    for name in sorted(os.listdir(log)):
        path = os.path.join(log, name)
        if name.startswith("rows.") and any(r[0] == kind for r in rows_of(path)):
            return path
    raise AssertionError(f"{log}: no file with {kind!r} rows")


class Logged(unittest.TestCase):
    """What a server without faults leaves behind."""

    @classmethod
    def setUpClass(cls):
        cls.result, cls.log = serve("one")
        cls.collected, cls.folder = collect(cls.log)

    def test_orrery_composes_every_step_as_the_engine_did(self):
        self.assertEqual(validate(self.folder), {"load_1": (32, 32), "load_2": (12, 12)})

    def test_requests_are_those_served(self):
        requests = table(self.folder, "requests")
        said = collections.Counter((tokens, reason) for _, tokens, reason in served(self.result.stdout))
        logged = collections.Counter((int(r["output_tokens"]), r["finish_reason"]) for r in requests
                                     if r["finish_reason"] != "abort")
        self.assertEqual(said, logged)
        by_prompt = {int(r["prompt_tokens"]): r for r in requests if r["experiment"] == "load_1"}
        # 43 full blocks of the first request's prompt, and 10
        self.assertEqual(by_prompt[700]["cached_tokens"], "688")
        self.assertEqual(by_prompt[380]["cached_tokens"], "160")
        self.assertEqual((by_prompt[40]["output_tokens"], by_prompt[40]["max_output_tokens"]), ("7", "30"))
        self.assertEqual(by_prompt[50]["finish_reason"], "abort")
        self.assertEqual(by_prompt[64]["ttft_s"], "0.012500")  # the front end's own figure
        self.assertEqual(by_prompt[50]["ttft_s"], "")
        for r in requests:
            self.assertLessEqual(float(r["submit_s"]), float(r["known_s"]))
            if r["finish_reason"] != "abort":
                self.assertLess(float(r["core_ttft_s"]), float(r["core_e2e_s"]))
                self.assertNotEqual(r["core_itl_p50_ms"], "")

    def test_steps_carry_the_times_of_their_own_execution(self):
        steps = table(self.folder, "steps")
        self.assertEqual([int(s["step"]) for s in steps], list(range(1, 45)))
        for s in steps:
            self.assertEqual(float(s["gpu_us"]), 550 + 10 * int(s["tokens"]))
            start, schedule = float(s["schedule_start_us"]), float(s["schedule_us"])
            self.assertLess(start + schedule, float(s["execute_start_us"]))
            self.assertLessEqual(float(s["execute_start_us"]), float(s["sample_end_us"]))
            self.assertGreater(float(s["logging_us"]), 0)
            chunks = [int(c.split("@")[0]) for c in s["prefill_chunks"].split()]
            self.assertEqual(int(s["tokens"]), sum(chunks) + int(s["decode_sequences"]))
        decode = next(s for s in steps if s["step"] == "30")  # alone: 33 tokens of prompt, 10 steps before
        self.assertEqual((decode["decode_sequences"], decode["prefill_chunks"]), ("1", ""))
        late = next(s for s in steps if "33@0" in s["prefill_chunks"])
        since = int(decode["step"]) - int(late["step"])
        self.assertEqual(int(decode["decode_context_tokens"]), 33 + since - 1)

    def test_no_text_no_token_no_name(self):
        for folder in (self.log, self.folder):
            for name in os.listdir(folder):
                data = read(os.path.join(folder, name))
                text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
                for secret in ("secret", "alpha", "many-", "1000", "/models"):
                    self.assertNotIn(secret, text if secret != "1000" else " ".join(
                        w for w in text.replace(",", " ").split() if w.startswith("10000")), (name, secret))

    def test_engine_is_described(self):
        with open(os.path.join(self.folder, "engine.json"), encoding="utf-8") as f:
            engine = json.load(f)
        self.assertEqual(engine["engine"]["model"], "Qwen3-8B")
        self.assertEqual((engine["num_gpu_blocks"], engine["gpu"], engine["ranks"]),
                         (4096, "Imagined GPU", 1))
        self.assertIn("V2 Model Runner", engine["backends"])
        self.assertEqual(engine["cpus"], os.cpu_count())
        self.assertIn("cpu", engine)

    def test_a_profile_can_be_fitted(self):
        scenario = os.path.join(ROOT, "scenario.yaml")
        with open(scenario, "w", encoding="utf-8") as f:
            f.write("deployment: {hardware: h200, model: qwen3-8b, engine: vllm-0.24}\n")
        out = os.path.join(ROOT, "fit")
        run(BINARY, "calibrate", "--from-steps", self.folder, "--scenario", scenario, "--out", out)
        with open(os.path.join(out, "fit.json"), encoding="utf-8") as f:
            fit = json.load(f)
        self.assertEqual((fit["steps"], fit["experiments"]), (44, 2))
        fitted = {t["key"]: t for t in fit["host_us"]}
        self.assertTrue(fitted["schedule_base"]["fitted"])
        self.assertLess(fitted["schedule_base"]["value"], 50)  # the stand-in is quicker than vLLM

    def test_what_the_replay_needs_is_needed(self):
        """Each addition of this log to the layout: without it, the replay leaves the log."""
        def without(name, file, change):
            folder = os.path.join(ROOT, name)
            os.makedirs(folder)
            for f in os.listdir(self.folder):
                data = read(os.path.join(self.folder, f))
                if f == file:
                    data = gzip.compress(change(gzip.decompress(data).decode()).encode())
                write(os.path.join(folder, f), data)
            return validate(folder, code=None)
        cache = without("no_cache", "experiments.jsonl.gz",
                        lambda t: t.replace('"cache":"kept"', '"cache":"new"'))
        self.assertEqual(cache["load_1"], (32, 32))
        self.assertLess(cache["load_2"][0], 12)
        size = without("no_size", "experiments.jsonl.gz",
                       lambda t: t.replace('"hash_block_size":16', '"x":16'))
        self.assertLess(size["load_1"][0], 32)
        for word in ("stop", "abort"):
            ends = without("no_" + word, "requests.csv.gz", lambda t, w=word: t.replace(f",{w},", ",length,"))
            self.assertLess(ends["load_1"][0], 32)

    def test_plain_steps_have_no_further_columns(self):
        self.assertEqual(set(table(self.folder, "steps")[0]) & {"drafts", "said", "encoded", "draft_us", "encode_us"}, set())

    def test_two_ranks_in_processes_of_their_own(self):
        result, log = serve("two", "2")
        self.assertEqual(result.stdout, self.result.stdout)
        _, folder = collect(log)
        self.assertEqual(validate(folder), {"load_1": (32, 32), "load_2": (12, 12)})
        for s in table(folder, "steps"):
            self.assertEqual(float(s["gpu_us"]), 550 + 10 * int(s["tokens"]))
            self.assertEqual(s["gpu_us"], s["gpu_us_rank1"])


class Further(unittest.TestCase):
    """Speculation and images: what the replay needs of them."""

    def test_drafts_and_what_came_of_them(self):
        result, log = serve("drafts", FAKE_DRAFTS="2")
        _, folder = collect(log)
        steps = table(folder, "steps")
        self.assertEqual(validate(folder), {e: (n, n) for e, n in collections.Counter(
            s["experiment"] for s in steps).items()})
        proposed = said = 0
        for s in steps:
            drafts = [int(w.split(":")[1]) for w in s["drafts"].split()]
            proposed += sum(drafts)
            said += sum(int(w.split(":")[1]) for w in s["said"].split())
            chunks = [int(c.split("@")[0]) for c in s["prefill_chunks"].split()]
            self.assertEqual(int(s["tokens"]), sum(chunks) + int(s["decode_sequences"]) + sum(drafts))
            self.assertEqual(float(s["draft_us"]), 7 * sum(drafts))
        self.assertGreater(proposed, 40)
        self.assertGreaterEqual(said, sum(tokens for _, tokens, _ in served(result.stdout)))
        # Without them the replay leaves the log.
        self.assertLess(sum(i for i, _ in self.without(folder, "said").values()), len(steps))

    def test_images_and_where_they_stand(self):
        _, log = serve("images", FAKE_IMAGES="1")
        _, folder = collect(log)
        steps = table(folder, "steps")
        self.assertEqual(sum(i for i, _ in validate(folder).values()), len(steps))
        encoding = [s for s in steps if s["encoded"]]
        self.assertEqual([w.split("@")[1] for s in encoding for w in s["encoded"].split()], ["20:100", "200:64"])
        for s in encoding:
            images = len(s["encoded"].split())
            self.assertEqual(float(s["encode_us"]), 900 * images)
            self.assertEqual(float(s["gpu_us"]), 550 + 10 * int(s["tokens"]) + 900 * images)
        self.assertEqual({s["encode_us"] for s in steps if not s["encoded"]}, {""})
        self.assertLess(sum(i for i, _ in self.without(folder, "encoded").values()), len(steps))

    def without(self, folder, column):
        other = folder + "_without_" + column
        shutil.copytree(folder, other)
        rows = table(folder, "steps")
        kept = [c for c in rows[0] if c != column]
        text = "\n".join([",".join(kept)] + [",".join(r[c] for c in kept) for r in rows]) + "\n"
        write(os.path.join(other, "steps.csv.gz"), gzip.compress(text.encode()))
        return validate(other, code=None)


class Faults(unittest.TestCase):
    """Nothing that goes wrong in the logger changes what is served."""

    @classmethod
    def setUpClass(cls):
        paths = os.path.join(ROOT, "site") + os.pathsep + FAKE
        cls.plain = run(sys.executable, os.path.join(FAKE, "serve.py"), "1", env={"PYTHONPATH": paths})
        assert "step log" not in cls.plain.stderr

    def test_a_hook_that_raises_ends_the_log_and_nothing_else(self):
        result, log = serve("raises", FAKE_POOL_ANSWERS="7")
        self.assertEqual(result.stdout, self.plain.stdout)
        self.assertEqual(result.stderr.count("step log off"), 1, result.stderr)
        self.assertIn("in schedule: RuntimeError: the pool has changed its mind", result.stderr)
        _, folder = collect(log)  # what was logged before stays useful
        self.assertEqual(validate(folder), {"load_1": (6, 6)})

    def test_unknown_versions_are_refused_unless_told(self):
        result, log = serve("version", FAKE_VLLM_VERSION="0.25.1")
        self.assertEqual(result.stdout, self.plain.stdout)
        self.assertIn("written for vLLM 0.24.x, this is 0.25.1", result.stderr)
        self.assertFalse(os.path.exists(log))
        result, log = serve("version", FAKE_VLLM_VERSION="0.25.1", ORRERY_STEP_LOG_ANY_VERSION="1")
        self.assertEqual(len(table(collect(log)[1], "steps")), 44)

    def test_a_folder_that_cannot_be_made(self):
        blocker = os.path.join(ROOT, "blocker")
        write(blocker, b"")
        result, _ = serve("folder", ORRERY_STEP_LOG=os.path.join(blocker, "log"))
        self.assertEqual(result.stdout, self.plain.stdout)
        self.assertEqual(result.stderr.count("step log off, nothing is hooked"), 1, result.stderr)

    def test_a_size_limit_ends_the_log(self):
        result, log = serve("full", ORRERY_STEP_LOG_MAX_MB="0.000001")
        self.assertEqual(result.stdout, self.plain.stdout)
        self.assertEqual(result.stderr.count("has reached ORRERY_STEP_LOG_MAX_MB"), 1, result.stderr)

    def test_a_crash_loses_the_last_batch_only(self):
        _, log = serve("crash", "1", "crash", code=1)
        collected, folder = collect(log)
        self.assertIn("5 unfinished", collected.stdout)
        self.assertEqual(validate(folder), {"load_1": (32, 32), "load_2": (7, 7)})
        path = rows_file(log)
        write(path, read(path)[:-9])  # torn in the middle of a line
        collected, folder = collect(log, "torn")
        self.assertIn("1 lines unreadable", collected.stdout)
        got = validate(folder)
        self.assertEqual(got["load_1"], (32, 32))
        self.assertEqual(got["load_2"][0], got["load_2"][1])

    def test_a_row_that_is_missing_is_one_unlogged_step(self):
        _, log = serve("missing")
        path = rows_file(log)
        lines = read(path).splitlines(keepends=True)
        write(path, b"".join(r for r in lines if json.loads(r)[:2] != ["s", 12]))
        _, folder = collect(log)
        self.assertEqual(validate(folder), {"load_1": (31, 31), "load_2": (12, 12)})

    def test_several_core_processes_have_to_be_chosen_from(self):
        _, log = serve("again")
        serve("again")
        self.assertIn("2 core processes with steps: --process", collect(log, code=1)[0].stderr)


class Parts(unittest.TestCase):
    def test_exceptions_of_the_engine_pass(self):
        module = tool()
        folder = tempfile.mkdtemp(dir=ROOT)

        class Engine:
            def work(self, n):
                raise KeyError("the engine's own")
        log = module.StepLog(folder)
        log.after(Engine, "work", lambda *a: None)
        with self.assertRaises(KeyError):
            Engine().work(1)
        self.assertTrue(log.on)

    def test_disabled_hooks_are_gone(self):
        module = tool()

        class Engine:
            def work(self, n):
                return n + 1
        original = Engine.work
        log = module.StepLog(tempfile.mkdtemp(dir=ROOT))

        def broken(*a):
            raise ValueError("no")
        log.after(Engine, "work", broken)
        self.assertIsNot(Engine.work, original)
        self.assertEqual(Engine().work(1), 2)
        self.assertIs(Engine.work, original)
        self.assertEqual(Engine().work(1), 2)

    def test_the_queue_is_bounded_and_says_what_it_dropped(self):
        module = tool()
        module.ROWS_KEPT = 10
        folder = tempfile.mkdtemp(dir=ROOT)
        writer = module.Writer(folder, self.fail, 1e9)
        writer.started = True  # no thread
        for i in range(25):
            writer.add(["u", i, 0, 0])
        writer.flush()
        rows = rows_of(os.path.join(folder, f"rows.{os.getpid()}.jsonl"))
        self.assertEqual([r[1] for r in rows], list(range(10)) + [15])
        self.assertEqual(rows[-1][0], "l")

    def test_no_row_falls_between_two_batches(self):
        module = tool()
        module.ROWS_KEPT = 1 << 30
        folder = tempfile.mkdtemp(dir=ROOT)
        writer = module.Writer(folder, self.fail, 1e12)
        writer.started = True
        done = threading.Event()

        def flush():
            while not done.is_set():
                writer.flush()
        thread = threading.Thread(target=flush)
        thread.start()
        for i in range(100_000):
            writer.add(["u", i])
        done.set()
        thread.join()
        writer.flush()
        rows = rows_of(os.path.join(folder, f"rows.{os.getpid()}.jsonl"))
        self.assertEqual([r[1] for r in rows], list(range(100_000)))

    def test_a_disk_that_fails_is_reported_once(self):
        module = tool()
        errors = []
        writer = module.Writer(os.path.join(ROOT, "no", "such"), lambda *a: errors.append(a), 1e9)
        writer.started = True
        for _ in range(3):
            writer.add(["u", 1])
            writer.flush()
        self.assertEqual(len(errors), 1)

    def test_a_forked_child_does_not_write_its_parents_rows(self):
        module = tool()
        folder = tempfile.mkdtemp(dir=ROOT)
        log = module.StepLog(folder)
        parent = log.out
        parent.started = True
        log.out.add(["u", 1])
        child = os.fork()
        if child == 0:
            parent.flush()  # as an exit handler that it inherited would
            log.begin()
            log.out.started = True
            log.out.add(["u", 2])
            log.out.flush()
            os._exit(0)
        os.waitpid(child, 0)
        log.out.flush()
        got = {}
        for name in os.listdir(folder):
            if name.startswith("rows."):
                got[int(name.split(".")[1])] = [r[1] for r in rows_of(os.path.join(folder, name))]
        self.assertEqual(got, {os.getpid(): [1], child: [2]})


if __name__ == "__main__":
    run(sys.executable, TOOL, "install", os.path.join(ROOT, "site"))
    unittest.main(argv=sys.argv[:1], verbosity=1)
