#!/usr/bin/env python3
"""A search in parts: plan_sharing_test.py ORRERY SOURCE_DIR [--scaling].

Shards of any number, ranks of mpirun and searches that were killed at 1, 10, 50 and 90 % of their work all end with the bytes
of one that ran alone, and repeat nothing that is there. --scaling: the time of 1, 2 and 4 ranks instead.
"""
import os
import pathlib
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

from checks import expect, verdict

ORRERY = os.path.abspath(sys.argv[1])
ROOT = pathlib.Path(tempfile.mkdtemp(prefix="orrery-plan-sharing-"))
OUTPUTS = ("recommendation.json", "recommendation.md", "curves.csv", "candidates.csv", "choice.yaml", "alternative-1.yaml")
DRAWS = 3
# Of 36 combinations those of tp 3 are rejected.
SPACE = """deployment: {hardware: h200, model: qwen3-8b, engine: vllm-0.24, kernels: roofline, replicas: 2}
workload:
  generator:
    requests: %d
    arrivals: {process: poisson, rate: 8}
    input: {distribution: fixed, value: 600}
    output: {distribution: fixed, value: 60}
seed: 3
slo: {ttft_ms: 1000, tpot_ms: 20, percentile: 95}
search:
  objective: latency
  finalists: 3
  draws: 3
  what_if: {traffic: [2], prompts: [4], lost: [instance]}
  curves: {rates: [0.5], instances: [3]}
  vary:
    hardware: [h100, h200, h20]
    parallel.tp: [1, 2, 3]
    engine_args.max_num_seqs: [8, 16, 32, 64]
"""
MPIRUN = ["mpirun", "--oversubscribe", "--allow-run-as-root"]


def call(*words, before=(), timeout=100):
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return subprocess.run([*before, ORRERY, "plan", *words], cwd=ROOT, capture_output=True, text=True, timeout=timeout, env=environment)


def outputs(folder):
    """Without the folder's name in the command that made them."""
    return {name: (ROOT / folder / name).read_bytes().replace(b"--out " + folder.encode(), b"--out X") for name in OUTPUTS}


def same(folder):
    for name, text in outputs(folder).items():
        expect(text == WHOLE[name], f"{folder}/{name} differs from a search that ran alone")


def simulations(done):
    return int(re.search(r"([\d,]+) simulations", done.stdout)[1].replace(",", ""))


def kept(folder):
    """Results in its store, and the simulations that they took."""
    file = ROOT / folder / "plan.sqlite"
    if not file.exists():
        return 0, 0
    try:
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as store:
            keys = [key for key, in store.execute("SELECT key FROM results")]
    except sqlite3.OperationalError:  # just being made
        return 0, 0
    return len(keys), sum(DRAWS + 1 if "draws" in key else 1 for key in keys)


def threads():
    for n in ("1", "3"):
        done = call("space.yaml", "--out", f"threads-{n}", "--threads", n)
        expect(done.returncode == 0, f"{n} threads: {done.stderr}")
        same(f"threads-{n}")


def shards():
    for passes in ([1], [2], [4, 3]):  # number of shards, in the last pass again until nothing is missing
        name = "shards-" + "-".join(map(str, passes))
        rounds = 0
        while True:
            n = passes[min(rounds, len(passes) - 1)]
            for i in range(1, n + 1):
                done = call("space.yaml", "--out", name, "--shard", f"{i}/{n}")
                expect(done.returncode == 0, f"{name}: shard {i}: {done.stderr}")
            done = call("space.yaml", "--out", name, "--merge")
            rounds += 1
            if done.returncode == 0 or rounds > 9:
                break
            expect(done.returncode == 6 and "lacks" in done.stderr and done.stderr.count("\n") == 1, f"{name}: {done.stderr}")
            expect(not (ROOT / name / "recommendation.md").exists(), f"{name}: an answer before all results are there")
        expect(done.returncode == 0, f"{name}: not merged after {rounds} passes: {done.stderr}")
        expect((rounds == 1) == (passes == [1]), f"{name}: {rounds} passes")
        expect(simulations(done) == 0, f"{name}: merging has run {simulations(done)} simulations")
        same(name)
    # Of other folders; what is missing is made here with --resume.
    for i in (1, 2):
        call("space.yaml", "--out", f"machine-{i}", "--shard", f"{i}/2")
    done = call("space.yaml", "--out", "joined", "--merge", "machine-1", "machine-2/shard-2-of-2.sqlite")
    expect(done.returncode == 6, f"joined: {done.returncode} {done.stderr}")
    expect(0 < kept("joined")[0] < RESULTS, f"joined: {kept('joined')} results of the first round")
    done = call("space.yaml", "--out", "joined", "--resume")
    expect(done.returncode == 0, f"joined: {done.stderr}")
    same("joined")
    for words, code, text in ((("--shard", "3/2", "--out", "x"), 2, "i/n"), (("--shard", "0/2", "--out", "x"), 2, "i/n"),
                              (("--shard", "1/2"), 2, "--out"), (("--merge", "--resume", "--out", "x"), 2, "one of"),
                              (("--merge", "--out", "absent"), 3, "absent"),
                              (("--merge", "machine-1", "--set", "seed=4", "--out", "other"), 3, "another space")):
        done = call("space.yaml", *words)
        expect(done.returncode == code and text in done.stderr, f"{words}: {done.returncode} {done.stderr}")


def ranks():
    if shutil.which("mpirun") is None or not (pathlib.Path(ORRERY).parent / "orrery_mpi.so").exists():
        print("no Open MPI here: ranks are left out")
        return
    for n in (1, 2, 4):
        done = call("space.yaml", "--out", f"ranks-{n}", before=[*MPIRUN, "-n", str(n)])
        expect(done.returncode == 0, f"{n} ranks: {done.returncode} {done.stderr}")
        same(f"ranks-{n}")
        expect(simulations(done) == SIMULATIONS, f"{n} ranks: {simulations(done)} simulations, not {SIMULATIONS}")
    done = call("absent.yaml", before=[*MPIRUN, "-n", "3"])
    expect(done.returncode == 3 and done.stderr.count("no such file") == 1, f"absent: {done.returncode} {done.stderr}")
    # One rank does not find its file: all of them end.
    words = 'test "$OMPI_COMM_WORLD_RANK" != 1 || cd /; exec "$@"'
    for resume in ((), ("--resume",)):
        done = call("space.yaml", "--out", "ranks-2", *resume, before=[*MPIRUN, "-n", "3", "bash", "-c", words, "-"])
        expect(done.returncode == 6 and "rank 1 of mpirun has failed" in done.stderr, f"one rank alone: {done.returncode} {done.stderr}")
    lost_rank()


def rank_of(process):
    """Pids of the ranks below `process`, by rank."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if f"PPid:\t{process.pid}\n" in (folder / "status").read_text() and os.readlink(folder / "exe") == os.path.realpath(ORRERY):
                environment = dict(v.split("=", 1) for v in (folder / "environ").read_text().split("\0") if "=" in v)
                found[int(environment["OMPI_COMM_WORLD_RANK"])] = int(folder.name)
        except (OSError, KeyError):
            pass
    return found


def lost_rank():
    """Open MPI ends the job with the rank that is lost; the store has what all of them made."""
    running = subprocess.Popen([*MPIRUN, "-n", "3", ORRERY, "plan", "space.yaml", "--out", "lost"], cwd=ROOT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while running.poll() is None and time.monotonic() < end and kept("lost")[0] < 10:
        time.sleep(0.005)
    pids = rank_of(running)
    if 1 in pids:
        os.kill(pids[1], signal.SIGKILL)
    expect(running.wait(timeout=60) != 0, "lost: mpirun ends as if nothing had happened")
    results, made = kept("lost")
    expect(10 <= results < RESULTS, f"lost: {results} of {RESULTS} results when a rank was killed")
    done = call("space.yaml", "--out", "lost", "--resume", before=[*MPIRUN, "-n", "2"])
    expect(done.returncode == 0, f"lost: {done.stderr}")
    expect(simulations(done) == SIMULATIONS - made, f"lost: {simulations(done)} simulations, {SIMULATIONS - made} were missing")
    same("lost")


def killed():
    for percent in (1, 10, 50, 90):
        name = f"killed-{percent}"
        running = subprocess.Popen([ORRERY, "plan", "space.yaml", "--out", name], cwd=ROOT, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        while running.poll() is None and kept(name)[0] < max(1, RESULTS * percent // 100):
            time.sleep(0.001)
        running.kill()
        running.wait()
        results, made = kept(name)
        expect(max(1, RESULTS * percent // 100) <= results < RESULTS, f"{name}: {results} of {RESULTS} results")
        done = call("space.yaml", "--out", name, "--resume")
        expect(done.returncode == 0, f"{name}: {done.stderr}")
        expect(simulations(done) == SIMULATIONS - made, f"{name}: {simulations(done)} simulations, {SIMULATIONS - made} were missing")
        same(name)


def scaling():
    """By the clock, which other work on the machine disturbs, and by processor time, which it hardly does."""
    (ROOT / "long.yaml").write_text(SPACE % 30000)
    print("| ranks | s by the clock | s of processor time, all ranks | one rank's processor time over it |\n|---|---|---|---|")
    one = None
    for n in (1, 2, 4):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        call("long.yaml", "--out", f"scaling-{n}", before=[*MPIRUN, "-n", str(n)], timeout=600)
        took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        one = one or busy
        print(f"| {n} | {took:.1f} | {busy:.1f} | {one / busy:.2f} |")


def main():
    if "--scaling" in sys.argv:
        return scaling()
    global WHOLE, SIMULATIONS, RESULTS
    (ROOT / "space.yaml").write_text(SPACE % 1600)
    alone = call("space.yaml", "--out", "whole")
    expect(alone.returncode == 0, alone.stderr)
    WHOLE, SIMULATIONS, RESULTS = outputs("whole"), simulations(alone), kept("whole")[0]
    expect(kept("whole")[1] == SIMULATIONS, f"{SIMULATIONS} simulations, {kept('whole')} in the store")
    threads()
    shards()
    ranks()
    killed()
    return verdict()


if __name__ == "__main__":
    sys.exit(main())
