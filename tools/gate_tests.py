#!/usr/bin/env python3
"""Join the tests of several build trees into one CTest tree, so that the gate ends in one summary.

  gate_tests.py OUT BUILD PREFIX [PART…] [-- BUILD PREFIX [PART…]]… [--test NAME COMMAND…]

Each BUILD contributes its tests as PREFIX.name; with PARTs only tests whose program lies in BUILD/tests/PART.
"""
import json
import pathlib
import subprocess
import sys


def quoted(text):
    level = 1
    while "]" + "=" * level + "]" in text:
        level += 1
    return "[" + "=" * level + "[" + text + "]" + "=" * level + "]"


def property_text(value):
    if isinstance(value, list):
        return ";".join(map(str, value))
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    return str(value)


def tests_of(build, parts):
    listing = subprocess.run(["ctest", "--test-dir", str(build), "--show-only=json-v1"], check=True,
                             capture_output=True, text=True).stdout
    folders = tuple(f"{build}/tests/{part}/" for part in parts)
    for test in json.loads(listing)["tests"]:
        command = test.get("command")
        if not command:  # a program that was not built; with PARTs those are the ones left out on purpose
            if parts:
                continue
            raise SystemExit(f"gate_tests: {build}: test {test['name']} has no program: build it first")
        if not parts or command[0].startswith(folders):
            yield test["name"], command, {p["name"]: p["value"] for p in test.get("properties", [])}


def main(arguments):
    out, groups, extra = pathlib.Path(arguments[0]).resolve(), [[]], []
    if "--test" in arguments:
        at = arguments.index("--test")
        arguments, extra = arguments[:at], arguments[at + 1:]
    for argument in arguments[1:]:
        if argument == "--":
            groups.append([])
        else:
            groups[-1].append(argument)
    text, total = "# Written by tools/gate_tests.py.\n", 0
    for group in groups:
        build, prefix, parts = pathlib.Path(group[0]).resolve(), group[1], group[2:]
        for name, command, properties in tests_of(build, parts):
            full = quoted(f"{prefix}.{name}")
            text += f"add_test({full} {' '.join(quoted(c) for c in command)})\n"
            for key, value in sorted(properties.items()):
                if key not in ("ENVIRONMENT_MODIFICATION",):
                    text += f"set_tests_properties({full} PROPERTIES {key} {quoted(property_text(value))})\n"
            total += 1
    if extra:  # the longest, on one core: first, beside all others
        text += f"add_test({' '.join(map(quoted, extra))})\nset_tests_properties({quoted(extra[0])} PROPERTIES TIMEOUT 900 COST 1000)\n"
        total += 1
    out.mkdir(parents=True, exist_ok=True)
    (out / "CTestTestfile.cmake").write_text(text)
    print(f"gate: {total} test programs from {len(groups)} builds", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
