#!/usr/bin/env bash
# A picture of a page, for the README: tools/screenshot.sh PAGE.html OUT.png [WIDTHxHEIGHT]. Needs chromium.
set -euo pipefail
page=$(realpath "$1")
out=$(realpath -m "$2")
size=${3:-1400x1500}
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) ||
  { echo "screenshot: no chromium found" >&2; exit 2; }
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
mkdir -p "$(dirname "$out")"
# The virtual time budget lets the charts be drawn before the picture is taken.
"$browser" --headless=new --no-sandbox --disable-gpu --disable-background-networking --hide-scrollbars \
  --user-data-dir="$profile" --window-size="${size/x/,}" --virtual-time-budget=20000 \
  --screenshot="$out" "file://$page" >/dev/null 2>&1
[ -s "$out" ] || { echo "screenshot: chromium wrote nothing" >&2; exit 1; }
echo "$out"
