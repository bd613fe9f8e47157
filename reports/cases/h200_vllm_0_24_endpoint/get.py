import sys, urllib.request
url, body = sys.argv[1], sys.argv[2].encode() if len(sys.argv) > 2 else None
try: sys.stdout.write(urllib.request.urlopen(urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"}), timeout=10).read().decode())
except Exception as e: sys.stdout.write(f"{e}\n"); sys.exit(1)
