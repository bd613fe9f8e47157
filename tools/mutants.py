#!/usr/bin/env python3
"""Show that the determinism tests can fail: tools/mutants.py BUILD, a build with -DORRERY_MUTANTS=ON.

Every mutant of base/mutation.h is switched on in turn (environment variable ORRERY_MUTANT); at least one test with the
label `determinism` must then fail, and with none switched on all must pass.
"""
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def mutants():
    text = (ROOT / "base" / "mutation.h").read_text()
    body = re.search(r"enum class Mutant[^{]*\{(.*?)\};", text, re.S).group(1)
    return [(int(number), name) for name, number in re.findall(r"^\s*(\w+)\s*=\s*(\d+)", body, re.M) if number != "0"]


def failing_tests(build, number):
    done = subprocess.run(["ctest", "--test-dir", build, "-L", "determinism", "--no-tests=error", "--stop-on-failure"],
                          env={**os.environ, "ORRERY_MUTANT": str(number)}, capture_output=True, text=True)
    names = re.findall(r"^\s*\d+ - (\S+) \(", done.stdout, re.M)
    return names or (["(ctest: " + (done.stderr.strip() or "no tests") + ")"] if done.returncode else [])


def main(build):
    if "ORRERY_MUTANTS:BOOL=ON" not in (pathlib.Path(build) / "CMakeCache.txt").read_text():
        print(f"mutants: {build} was not configured with -DORRERY_MUTANTS=ON", file=sys.stderr)
        return 2
    wrong = failing_tests(build, 0)
    if wrong:
        print(f"mutants: without a mutant these fail: {', '.join(wrong)}")
        return 1
    survivors = 0
    for number, name in mutants():
        caught = failing_tests(build, number)
        survivors += not caught
        print(f"mutant {number} {name}: {'caught by ' + ', '.join(caught) if caught else 'SURVIVED'}", flush=True)
    print(f"{survivors} of {len(mutants())} mutants survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
