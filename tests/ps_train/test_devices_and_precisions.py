"""What a GPU run needs, held to on a CPU: no tensor stays on a default device, every precision works."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.strategies import Strategy
from small_runs import MODULES, check_whole_path, write_config, write_tables

from ps_train.architectures import build_predictor
from ps_train.budget.regressor import BudgetRegressor
from ps_train.budget.targets import BinTarget, PointTarget, QuantileTarget
from ps_train.cli import main
from ps_train.common.text_batches import collate
from ps_train.curve.lora import CurveLoRA
from ps_train.curve.mlp import CurveMLP
from ps_train.difficulty.mlp import DifficultyMLP
from ps_train.load import load_predictor


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write_tables(folder)
    return folder


@contextmanager
def foreign_device(self: Strategy, empty_init: bool | None = None) -> Iterator[None]:
    """What Lightning builds modules in on a GPU, with a device that has no data."""
    with torch.device("meta"):
        yield


def thinned(kinds: Iterable[str]) -> list[Any]:
    """Of modules that share their code the fast tests run one; the slow ones all."""
    rest = {"budget_bins", "budget_quantiles", "difficulty_lora", "difficulty_mlp"}
    return [pytest.param(kind, marks=pytest.mark.slow if kind in rest else ()) for kind in kinds]


@pytest.mark.parametrize("kind", thinned(MODULES))
def test_every_module_is_built_fitted_and_exported_under_a_foreign_device(
    kind, tables, backbone, tmp_path, monkeypatch
):
    monkeypatch.setattr(Strategy, "tensor_init_context", foreign_device)
    check_whole_path(write_config(tables, kind, backbone), tmp_path)
    with torch.device("meta"):
        predictor = load_predictor(tmp_path / "predictor")
    assert not any(value.is_meta for value in predictor.state_dict().values())


@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        *(pytest.param(*kind.values, "bf16-true", marks=kind.marks) for kind in thinned(MODULES)),
        *((kind, mixed) for kind in ("curve_mlp", "curve_lora") for mixed in ("bf16-mixed", "16-mixed")),
        pytest.param("budget_bins", "bf16-mixed", marks=pytest.mark.slow),
        pytest.param("difficulty_lora", "bf16-mixed", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:You passed `Trainer")  # 16-mixed on a CPU is bf16-mixed
def test_modules_run_in_every_precision(kind, precision, tables, backbone, tmp_path):
    check_whole_path(write_config(tables, kind, backbone), tmp_path, "--trainer.precision", precision)


def test_float16_weights_and_sharded_strategies_are_refused(tables, backbone, tmp_path, capsys):
    config = write_config(tables, "curve_mlp", backbone, trainer={"default_root_dir": str(tmp_path)})
    for precision in ("16-true", "64-true"):
        assert main(["fit", "--config", config, "--trainer.precision", precision]) == 2
        expected = f"must be one of 32-true, bf16-mixed, 16-mixed, bf16-true, got {precision}"
        assert expected in capsys.readouterr().err
    module = CurveMLP()
    module.trainer = SimpleNamespace(strategy=type("FSDPStrategy", (), {})(), precision="32-true")
    with pytest.raises(ValueError, match=r"trainer.strategy must be .* got FSDPStrategy"):
        module.setup("fit")


def test_a_point_target_learns_from_budgets_on_another_device():
    """Scales may be on a GPU while budgets come from a file."""
    for target in (PointTarget(), QuantileTarget([0.1, 0.5]), BinTarget(4, [0.5])):
        target.to("meta")
        start = target.fit(torch.tensor([16.0, 32.0, 48.0])) if not isinstance(target, BinTarget) else None
        assert start is None or start.is_meta


@pytest.mark.parametrize("has_use", [False, True])
@pytest.mark.parametrize("kind", ["curve_mlp", "difficulty_mlp", "curve_lora", "budget_point", "budget_bins"])
def test_a_step_on_a_device_mixes_in_no_tensor_of_another(kind, has_use, backbone, monkeypatch):
    """On a device without data whatever is left on the CPU is refused by torch, as on a GPU."""
    has_use = has_use and "budget" not in kind
    schema = {"features": {}, "num_windows": 8, "window": 16, "backbone": str(backbone), "has_use": has_use}
    settings: dict[str, Any] = {"lora": {"r": 2}}
    batch = {"rows": torch.arange(3), "curves": torch.rand(3, 8), "weights": torch.ones(3)}
    batch |= {"use": torch.rand(3, 8), "used_shares": torch.rand(3, 8)}
    batch |= {"labels": torch.tensor([0, 1, 2]), "budgets": torch.tensor([16, 32, 64])}
    if "mlp" in kind:
        schema["features"], settings = {"layer_2": 12}, {"hidden_sizes": [8]}
        batch["inputs"] = torch.rand(3, 12)
    else:
        batch |= collate([[3, 4], [5, 6, 7], [8]])
    architecture = "budget_lora" if "budget" in kind else kind
    if kind == "budget_bins":
        settings["loss"] = "bins"
    net = build_predictor(
        {"architecture": architecture, "schema": schema, "settings": settings}, source="the test"
    )
    module = {"curve_mlp": CurveMLP, "difficulty_mlp": DifficultyMLP, "curve_lora": CurveLoRA}.get(
        kind, BudgetRegressor
    )()
    module.adopt(net)
    module.log = lambda *_, **__: None
    if "mlp" not in kind:  # transformers looks into its masks, which hold nothing here
        net.backbone.forward = lambda ids, mask: torch.empty(len(ids), 32, device=ids.device)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no such device
    module.to("meta")
    on_device = {name: value.to("meta") for name, value in batch.items()}
    assert module.training_step(on_device, 0).is_meta
    outputs = module.outputs(on_device, "val")
    predicted, measured = module.scored(outputs, on_device)
    assert predicted.is_meta
    assert measured.is_meta
    assert (net.use_of(outputs) is not None) == has_use


def test_figures_are_logged_as_numbers_that_no_process_reduces(backbone):
    """Tensors on the CPU cannot be reduced by NCCL; these figures are those of all processes already."""
    module = CurveMLP(budgets=[48])
    module.adopt(
        build_predictor(
            {
                "architecture": "curve_mlp",
                "schema": {"features": {"layer_2": 2}, "num_windows": 8, "window": 16},
                "settings": {"hidden_sizes": [2]},
            },
            source="the test",
        )
    )
    logged: list[tuple[dict[str, Any], dict[str, Any]]] = []
    module.log_dict = lambda values, **how: logged.append((values, how))
    module.quality.update(torch.arange(5), torch.rand(5, 8), torch.rand(5, 8))
    module.report("val")
    ((values, how),) = logged
    assert how == {}
    assert {type(value) for value in values.values()} == {float}


def test_questions_are_read_for_novelty_where_the_fit_ran():
    """Lightning moves a module back to the CPU before a fit's last callbacks, which export."""
    places = []

    class Net:
        mean_curve = torch.zeros(2)

        def to(self, device):
            places.append(torch.device(device).type)

        def states(self, texts):
            places.append(f"{len(texts)} texts read")
            return torch.zeros(len(texts), 3)

    module = CurveLoRA()
    module.net = Net()
    module.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cuda")))
    assert module.seen_of([SimpleNamespace(texts=["a", "b"])]).shape == (2, 3)
    assert places == ["cuda", "2 texts read", "cpu"]
