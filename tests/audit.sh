#!/usr/bin/env bash
# audit.sh PYTHON: known vulnerabilities of what locks/ pins. 1 where there are some. 0 where there are none, and where no
# advisories can be reached: then it says NOT AUDITED, and nothing has passed.
set -euo pipefail
cd "$(dirname "$0")/.."
"$1" -m venv .venv-audit
if ! .venv-audit/bin/pip install --quiet pip-audit; then
  echo "NOT AUDITED: pip-audit cannot be installed here"
  exit 0
fi
# Three packages first: an index without advisories is not asked for a hundred more.
for lock in base eval-serve; do
  report=.venv-audit/$lock.json; rm -f "$report"
  .venv-audit/bin/pip-audit --progress-spinner off --no-deps --disable-pip --format json --output "$report" \
    --requirement "locks/$lock.txt" > .venv-audit/log 2>&1 || true
  .venv-audit/bin/python - "locks/$lock.txt" "$report" <<'PYTHON' || exit $(($? == 3 ? 0 : 1))
import json, pathlib, sys

lock, report = sys.argv[1], pathlib.Path(sys.argv[2])
said = pathlib.Path(".venv-audit/log").read_text().strip().splitlines() or ["nothing"]
if not report.is_file():
    print(f"NOT AUDITED: {lock}: no advisories can be reached ({said[-1]})")
    sys.exit(3)
packages = json.loads(report.read_text())["dependencies"]
looked_up = [package for package in packages if "vulns" in package]
found = [(p["name"], p["version"], v["id"], v["fix_versions"]) for p in looked_up for v in p["vulns"]]
if not looked_up:
    print(f"NOT AUDITED: {lock}: this index has no advisories for any of {len(packages)} packages")
    sys.exit(3)
print(f"{lock}: {len(looked_up)} of {len(packages)} packages audited, {len(found)} known vulnerabilities")
for name, version, number, fixed in found:
    print(f"  {name} {version}: {number}, mended in {', '.join(fixed) or 'no version yet'}")
sys.exit(bool(found))
PYTHON
done
