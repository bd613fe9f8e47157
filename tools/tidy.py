#!/usr/bin/env python3
"""The house rules that a compiler does not check, as a test: tools/tidy.py [--self-test] [FILE…].

Prints file:line: rule: what to do, exits 1 when anything is found. Rules and reasons: docs/determinism.md
and CONTRIBUTING.md.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ["base", "workloads", "costmodel", "sim", "kernels", "calibrate", "live", "plan", "reports", "cli",
           "tests", "tools"]
COLUMNS, FUNCTION_LINES, FILE_LINES = 110, 70, 500
MATH = ("log|log2|log10|log1p|exp|exp2|expm1|pow|sin|cos|tan|asin|acos|atan|atan2|sinh|cosh|tanh|cbrt|hypot"
        "|erf|erfc|lgamma|tgamma")

# (rule, pattern in code without comments and strings, path prefixes where it is allowed, what to do).
# kernels/ and live/forward/ may use math: what runs on a GPU is compared within tolerances and decides nothing in a simulation.
BANNED = [
    ("math", rf"\bstd::({MATH})\b|(?<![\w.:>])({MATH})[fl]?\(", ["base/det_math.cpp", "kernels/", "live/forward/", "tests/"],
     "C-library results differ between machines; use base/det_math.h"),
    ("random", r"\bs?rand\(|#include <random>|\bstd::(shuffle|mt19937|random_device)", ["tests/base/"],
     "use base/random.h: counter-based streams"),
    ("hash", r"\bstd::hash\b", [], "its values are the library's own; use base/digest.h"),
    ("clock", r"\bstd::chrono\b|#include <chrono>|\bclock_gettime\b|\bgettimeofday\b|\btime\((nullptr|NULL|0)\)",
     ["base/text.cpp", "cli/", "live/", "calibrate/", "kernels/device_cuda.cpp",
      "kernels/probes.cpp", "tests/"], "no wall clock where results are made"),
    ("exit", r"\b(std::)?(_|quick_)?exit\(", ["cli/main.cpp"], "only cli/main.cpp ends the process; return an Error"),
    ("abort", r"\babort\(", ["base/check.cpp"], "use ORRERY_CHECK"),
    ("throw", r"\bthrow\b", ["tests/"], "errors are Result<T>"),
    ("fma", r"\bstd::fma\b|\b__builtin_fmaf?\b", ["tests/"], "fused operations give other last bits on other targets"),
    ("view", r"\bstd::(views|ranges::views|format|expected|source_location)\b", [], "not in the C++20 that g++ 12 and clang 14 share"),
    ("include", r"#include <bits/", [], "not standard"),
]
WORDS = [("leftover", re.compile(r"\b(TODO|FIXME|XXX|HACK)\b"), "finish it, or open an issue and say so in docs/limits.md"),
         ("tmp", re.compile(r'"/tmp/'), "two runs at once meet there; std::filesystem::temp_directory_path() is a test's own")]


def without_comments(text):
    """Same lines; comments, strings and characters blanked."""
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|(?<![\w])\'(?:\\.|[^\'\\\n])+\'', re.S)

    def blank(match):
        piece = match.group(0)
        if piece.startswith('"') and text[text.rfind("\n", 0, match.start()) + 1:match.start()].lstrip().startswith("#include"):
            return piece
        return re.sub(r"[^\n]", " ", piece)

    return pattern.sub(blank, text)


def long_functions(code):
    """(line, length) of blocks at indentation 0 or 2 that are too long; namespaces and types do not count."""
    lines = code.split("\n")
    found, end_of_last = [], -1
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if i <= end_of_last or indent not in (0, 2) or not line.rstrip().endswith("{") or line.lstrip().startswith("}"):
            continue
        if re.match(r"\s*(namespace|class|struct|enum|union|extern|template <[^>]*> (class|struct))\b", line) and "(" not in line:
            continue
        if line.rstrip().endswith(("= {", "{{")):
            continue  # a table
        for j in range(i + 1, len(lines)):
            if lines[j].startswith(" " * indent + "}"):
                if j - i + 1 > FUNCTION_LINES:
                    found.append((i + 1, j - i + 1))
                end_of_last = j
                break
    return found


def check_unordered(lines, code_lines, code, problems):
    """A hash container may be looked up, never iterated: its order is the library's."""
    for i, line in enumerate(code_lines):
        if "#include" in line or not re.search(r"\bunordered_(map|set|multimap|multiset)\b", line):
            continue
        if "never iterated" not in lines[i] and (i == 0 or "never iterated" not in lines[i - 1]):
            problems.append((i + 1, "unordered", "say `// never iterated` beside it, or use a sorted or dense container"))
        for name in re.findall(r"\b(\w+)\s*(?:;|,|\{|=)", line[line.rfind(">") + 1:]):
            if re.search(rf":\s*(?:\w+(?:\.|->))*{name}\s*\)|\b{name}\.c?begin\(", code):
                problems.append((i + 1, "unordered", f"{name} is iterated; its order is the library's"))


def check(path, text):
    """Problems of one file: (line, rule, what to do). `path` is relative to the root, with forward slashes."""
    problems = []
    lines, code = text.split("\n"), without_comments(text)
    code_lines = code.split("\n")
    if len(lines) - 1 > FILE_LINES:
        problems.append((1, "file", f"{len(lines) - 1} lines; at most {FILE_LINES}: split it"))
    if path.endswith(".h") and not lines[0].startswith("//"):
        problems.append((1, "header", "begin with a comment that says why the file exists"))
    for i, line in enumerate(lines):
        if len(line) > COLUMNS and not re.search(r'https?://\S{60}|R"', line):
            problems.append((i + 1, "columns", f"{len(line)} columns; at most {COLUMNS}"))
        if line != line.rstrip() or "\t" in line:
            problems.append((i + 1, "space", "tab or trailing space"))
        problems += [(i + 1, rule, remedy) for rule, pattern, remedy in WORDS if pattern.search(line)]
    for rule, pattern, allowed, remedy in BANNED:
        if any(path.startswith(prefix) for prefix in allowed):
            continue
        problems += [(i + 1, rule, remedy) for i, line in enumerate(code_lines)
                     if re.search(pattern, line) and "ORRERY_MUTANT" not in line]
    problems += [(line, "function", f"{n} lines; at most {FUNCTION_LINES}") for line, n in long_functions(code)]
    if not path.startswith("tests/"):
        check_unordered(lines, code_lines, code, problems)
    if text and not text.endswith("\n"):
        problems.append((len(lines), "space", "the file must end in a newline"))
    return sorted(problems)


def self_test():
    """Each rule catches its example and lets the harmless neighbour pass."""
    cases = [  # (rule, path, bad, good)
        ("math", "sim/a.cpp", "double x = std::log(y);", "double x = det_log(y);  // not std::log(y)"),
        ("math", "sim/a.cpp", "double x = exp(y);", "double x = stats.exp(y) + det_exp(y);"),
        ("random", "sim/a.cpp", "int x = rand();", "int x = brand();"),
        ("hash", "sim/a.cpp", "std::hash<int> h;", "int std_hash;"),
        ("clock", "sim/a.cpp", "auto t = std::chrono::steady_clock::now();", "SimTime t = clock.now();"),
        ("exit", "sim/a.cpp", "std::exit(3);", "on_exit_code(3);"),
        ("abort", "sim/a.cpp", "std::abort();", "scheduler.abort_request(id);"),
        ("throw", "sim/a.cpp", "throw 1;", 'fail("throw");'),
        ("fma", "sim/a.cpp", "x = std::fma(a, b, c);", "x = ORRERY_MUTANT(m) ? std::fma(a, b, c) : a * b + c;"),
        ("view", "sim/a.cpp", "for (int x : v | std::views::all) f(x);", "for (int x : v) f(x);"),
        ("include", "sim/a.cpp", "#include <bits/stdc++.h>", "#include <vector>"),
        ("leftover", "sim/a.cpp", "// TODO later", "// to do is to be"),
        ("tmp", "tests/a.cpp", 'write("/tmp/a");', 'write(std::filesystem::temp_directory_path() / "a");'),
        ("columns", "sim/a.cpp", "// " + "x" * 120, "// " + "é" * 100),
        ("space", "sim/a.cpp", "int x; ", "int x;"),
        ("unordered", "sim/a.cpp", "std::unordered_map<int, int> m_;", "std::unordered_map<int, int> m_;  // never iterated"),
        ("unordered", "sim/a.cpp", "std::unordered_map<int, int> m;  // never iterated\nfor (auto& x : m) f(x);",
         "std::unordered_map<int, int> m;  // never iterated\nfor (auto& x : mm) f(x);"),
        ("function", "sim/a.cpp", "void f() {\n" + "  g();\n" * 80 + "}", "void f() {\n" + "  g();\n" * 20 + "}"),
        ("function", "sim/a.cpp", "class A {\n  void f() {\n" + "    g();\n" * 80 + "  }\n};",
         "class A {\n" + "  void f();\n" * 80 + "};"),
        ("file", "sim/a.cpp", "int x;\n" * 600, "int x;\n" * 400),
    ]
    failed = 0
    for rule, path, bad, good in cases:
        caught = [r for _, r, _ in check(path, "// why\n" + bad + "\n")]
        passed = [r for _, r, _ in check(path, "// why\n" + good + "\n")]
        if rule not in caught or rule in passed:
            print(f"self-test: rule {rule}: caught {caught}, harmless {passed}: {bad[:60]!r}")
            failed += 1
    if not any(r == "header" for _, r, _ in check("sim/a.h", "int x;\n")):
        failed += 1
    print(f"tidy self-test: {len(cases) + 1 - failed} of {len(cases) + 1} rules see their mistake")
    return 1 if failed else 0


def main(arguments):
    if arguments == ["--self-test"]:
        return self_test()
    files = [pathlib.Path(a).resolve() for a in arguments]
    if not files:
        files = sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*")
                       if p.suffix in (".cpp", ".h", ".cu", ".hip") and p.is_file())
    found = 0
    for path in files:
        relative = path.relative_to(ROOT).as_posix()
        for line, rule, remedy in check(relative, path.read_text(encoding="utf-8")):
            print(f"{relative}:{line}: {rule}: {remedy}")
            found += 1
    print(f"tidy: {len(files)} files, {found} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
