#!/usr/bin/env bash
# A stranger's first hour, each step with its time: what is committed, cloned, in environments that did not exist.
# PYTHON chooses the interpreter; WHERE (default: a new folder) is where all of it lies.
set -euo pipefail
source_tree=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
where=${WHERE:-$(mktemp -d)}
export OMP_WAIT_POLICY=PASSIVE
unset PYTHONPATH
failed=0
times=()

step() {  # step NAME COMMAND…
  local name=$1 begun=$SECONDS ended=passed
  shift
  ( "$@" ) > "$where/log" 2>&1 || { ended=FAILED; failed=1; tail -n 30 "$where/log"; }
  times+=("$(printf '| %s | %s | %d s |' "$name" "$ended" $((SECONDS - begun)))")
  echo "${times[-1]}"
}

installed() { "$python" -m venv "$where/$1" && "$where/$1/bin/pip" install --quiet -c "$where/clone/constraints.txt" "$2"; }

step "clean clone" git clone --quiet "$source_tree" "$where/clone"
cd "$where/clone"
step "environment of a checkout" make PYTHON="$python" .venv/.installed
step "README and docs: Python blocks, shell blocks, the site" .venv/bin/python -m pytest -q \
  -p no:cacheprovider -m "slow or not slow" --timeout=1800 tests/test_docs.py tests/test_docs_commands.py
step "sdist and wheel" make dist
wheel=$(ls "$where"/clone/dist/*.whl)
mkdir -p "$where/elsewhere" && cd "$where/elsewhere"
step "wheel, no extras" installed base "$wheel"
step "has predictions: decide" "$where/base/bin/python" -c "
import numpy as np
from ps_alloc import allocate
curves = 1 / (1 + np.exp(np.linspace(1, 12, 1000)[:, None] - np.arange(1, 17)))
print(allocate(curves, total_tokens=96_000, window=16).tokens.sum())"
step "wheel with [eval,serve], torch of the CPU first" bash -c "
  '$python' -m venv '$where/full' &&
  '$where/full/bin/pip' install --quiet -c '$where/clone/constraints.txt' torch &&
  '$where/full/bin/pip' install --quiet -c '$where/clone/constraints.txt' '$wheel[eval,serve]'"
export PATH="$where/full/bin:$PATH"
step "has questions: trace, learn, answer" bash -c "
  ps-eval make-problems --output q.jsonl --num-problems 40 --seed 3 &&
  ps-eval trace --questions q.jsonl --model embedded:tiny-reasoner --output table --num-traces 2 &&
  ps-train light --table table --output light &&
  ps-eval answer --questions q.jsonl --limit 8 --model embedded:tiny-reasoner --predictor light --budget 48 \
    --output answers.jsonl && test \$(wc -l < answers.jsonl) = 8"
step "has logs: assess" bash -c "
  python -c '
import json, random
random.seed(0)
for q in range(60):
    for s in range(8):
        tokens = random.randint(20, 60 + 10 * q)
        print(json.dumps(dict(id=q, question=\"How many \" * (1 + q % 7) + str(q), tokens=tokens, correct=tokens > 5 * q)))
' > logs.jsonl && ps-eval assess logs.jsonl --output assessed"
step "serves: the gateway starts and answers" bash -c "
  ps-eval serve --upstream http://127.0.0.1:9 --tokens-per-request 48 --predictor embedded:tiny-light --port 18471 \
    > gateway.log 2>&1 & pid=\$!
  for _ in \$(seq 100); do sleep 0.5; grep -q 'startup complete' gateway.log && break; done
  python -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:18471/live\").status)'; code=\$?
  kill \$pid; wait \$pid || true; exit \$code"
step "trains: a preset" bash -c "
  ps-train fit --config tiny_curve_mlp --data.train table --data.backbone embedded:tiny-reasoner \
    --trainer.default_root_dir fit --trainer.max_epochs 2 && test -f fit/predictor/README.md"
step "demo, in small" ps-eval demo --output demo --num-problems 24

printf '\n| step | | time |\n|---|---|---|\n'
printf '%s\n' "${times[@]}"
exit $failed
