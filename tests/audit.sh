#!/usr/bin/env bash
# audit.sh PYTHON: known vulnerabilities of what locks/ pins. 0 where there are none, and where no advisories can be
# reached, which is said; 1 where there are some.
set -euo pipefail
cd "$(dirname "$0")/.."
"$1" -m venv .venv-audit
if ! .venv-audit/bin/pip install --quiet pip-audit; then
  echo "not audited: pip-audit cannot be installed here"
  exit 0
fi
audit() { .venv-audit/bin/pip-audit --progress-spinner off --no-deps --disable-pip --requirement "$1" 2>&1; }
# Three packages first: an index without advisories is not asked for a hundred more.
first=$(audit locks/base.txt) || { code=$?; echo "$first"; grep -qi "connection\|timed out\|resolve" <<< "$first" || exit $code; }
if grep -q "could not be audited" <<< "$first" || grep -qi "connection\|timed out\|resolve" <<< "$first"; then
  echo "not audited: this index has no advisories"
  exit 0
fi
audit locks/eval-serve.txt
