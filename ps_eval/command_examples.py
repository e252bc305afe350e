"""What the help of each command of `ps-eval` shows to begin from; a test parses every one."""

from __future__ import annotations

_EMBEDDED = "--model embedded:tiny-reasoner --predictor embedded:tiny-predictor"

EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": ("", "--num-problems 60 --output runs/look"),
    "make-problems": ("--num-problems 30 --output runs/new.jsonl",),
    "assess": (
        "logs/*.eval --price-per-million 3",
        "samples.csv --columns tokens=n_out,correct=ok --used 1000,2000,4000",
    ),
    "import-samples": ("logs/*.eval --dry-run", "logs/run.eval --output runs/mine/table"),
    "arms": ("runs/traffic/decisions.jsonl",),
    "answer": (
        f"--questions new.jsonl {_EMBEDDED} --budget 48 --output out.jsonl",
        "--questions new.jsonl --predictor P --target-accuracy 0.8 --dry-run  # decides only",
    ),
    "serve": (
        "--upstream http://127.0.0.1:8000 --tokens-per-request 512 --predictor P --state runs/gateway.json",
        "--upstream http://127.0.0.1:8000 --tokens-per-request 512 "
        "--observe --decision-log runs/decisions.jsonl",
        "--config gateway.yaml",
    ),
    "roll": ("--questions new.jsonl --forecaster F --model M --price 0.002 --output out.jsonl",),
    "trace": (
        "--questions train.jsonl --model M --layers 16 "
        "--grid geometric:256:16384:13 --num-traces 4 --output runs/my/train",
    ),
    "run": (
        "--questions test.jsonl --model M --predictor P "
        "--policies uniform,use --budgets 96,128 --output runs/my/run",
    ),
    "replay": ("--table runs/my/test --predictor P --output runs/my/replay",),
    "report": ("runs/my/run runs/my/replay --output runs/report",),
    "diffuse": ("--questions new.jsonl --model embedded:tiny-diffusion --output out.jsonl",),
    "ablate": ("--questions test.jsonl --model embedded:tiny-diffusion --quick --output runs/ablate",),
    "menu": ("--questions train.jsonl --model embedded:tiny-diffusion --output runs/menu/train",),
    "fit-menu": ("--table runs/menu/train --cost passes --output runs/menu/predictor",),
    "frontier": ("--tables runs/menu/static,runs/menu/learned --tuning runs/menu/tuning",),
    "fit-acceptance": ("--questions train.jsonl --model embedded:tiny-diffusion --output runs/acceptance",),
    "experiment": ("accuracy_budget", "all --quick"),
    "import-paper": ("downloaded/ --output runs/gsm8k/tables",),
}
