"""What each setting of a training does: optimizer, schedule, weights, scales, seeds."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from small_runs import write_config, write_tables
from tiny_texts import make_text_table

from ps_train.budget.regressor import BudgetRegressor
from ps_train.cli import main
from ps_train.common.heads import HeadSettings, Standardise
from ps_train.common.lora_settings import LoraSettings
from ps_train.common.optimization import (
    LoraOptimizerSettings,
    OptimizerSettings,
    ScheduleSettings,
    make_optimizer,
    make_scheduler,
)
from ps_train.common.rows import Rows
from ps_train.common.split import refuse_overlap, validation_rows
from ps_train.common.text_batches import LengthBatches, TextFormat
from ps_train.curve.data import CurveDataModule
from ps_train.curve.lora import CurveLoRA
from ps_train.curve.loss import curve_loss
from ps_train.curve.mlp import CurveMLP
from ps_train.difficulty.lora import DifficultyClassifier
from ps_train.load import load_predictor
from ps_train.schema import CurveSchema


def share_by_formula(step: int, warmup: int, total: int, shape: str) -> float:
    """The slow twin of torch's chained schedulers."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / (total - warmup)
    return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[shape]


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 2, 7])
def test_each_schedule_is_what_its_formula_says_for_every_group(shape, warmup):
    adapters, head = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = torch.optim.AdamW([{"params": [adapters], "lr": 0.1}, {"params": [head], "lr": 0.3}])
    scheduler = make_scheduler(optimizer, ScheduleSettings(shape, warmup), 20)
    for step in range(20):
        expected = share_by_formula(step, warmup, 20, shape)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [0.1 * expected, 0.3 * expected], abs=1e-12
        )
        optimizer.step()
        scheduler.step()


def test_schedules_that_do_not_fit_the_fit_are_refused():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]}]
    with pytest.raises(ValueError, match="warmup_steps must be below the fit's 20 optimizer steps, got 20"):
        make_optimizer(groups, OptimizerSettings(), ScheduleSettings("linear", 20), 20)
    with pytest.raises(ValueError, match=r"schedule.shape linear needs a fit of known length"):
        make_optimizer(groups, OptimizerSettings(), ScheduleSettings("linear"), math.inf)
    assert isinstance(
        make_optimizer(groups, OptimizerSettings(), ScheduleSettings(), math.inf), torch.optim.AdamW
    )
    with pytest.raises(ValueError, match=r"optimizer.lr must be at least 0, got -1; optimizer.weight_decay"):
        OptimizerSettings(lr=-1, weight_decay=-1)
    with pytest.raises(ValueError, match=r"schedule.warmup_steps must be at least 0, got -1"):
        ScheduleSettings("linear", -1)
    with pytest.raises(ValueError, match=r"head.hidden_sizes must be positive, got \[0\]; head.dropout must"):
        HeadSettings([0], 1.0)


def test_the_head_has_a_step_size_of_its_own_and_all_weights_decay(backbone):
    settings = LoraOptimizerSettings(lr=0.1, head_lr=0.3, weight_decay=0.07)
    module = CurveLoRA(lora=LoraSettings(r=2), optimizer=settings)
    module.adopt(module.build(text_rows(backbone)))
    module.trainer = SimpleNamespace(estimated_stepping_batches=10, fast_dev_run=False)
    found = module.configure_optimizers()["optimizer"].param_groups
    assert [group["initial_lr"] for group in found] == [0.1, 0.3]
    assert [group["weight_decay"] for group in found] == [0.07, 0.07]
    adapters, head = ({id(p) for p in group["params"]} for group in found)
    assert head == {id(p) for p in module.net.head.parameters()}
    assert len(adapters) == 4 * 2 * 2  # blocks, target modules, matrices
    module = CurveLoRA(lora=LoraSettings(r=2), optimizer=LoraOptimizerSettings(lr=0.1))
    module.adopt(module.build(text_rows(backbone)))
    assert [group["lr"] for group in module.parameter_groups()] == [0.1, 0.1]


def text_rows(backbone, n: int = 30) -> Rows:
    table = make_text_table(n)
    schema = CurveSchema({}, 8, 16, backbone=str(backbone))
    targets = {"curves": table.curves, "budgets": np.full(n, 48)}
    return Rows(table.ids, table.questions, targets, schema, TextFormat(), [[3]] * n, source={"window": "16"})


def test_a_row_counts_by_its_traces_whatever_the_batch():
    logits, curves = torch.randn(6, 4), torch.rand(6, 4)
    weights = torch.tensor([1.0, 1.0, 2.0, 0.5, 0.5, 1.0])
    whole = curve_loss(logits, curves, "bce", weights)
    parts = [curve_loss(logits[i : i + 2], curves[i : i + 2], "bce", weights[i : i + 2]) for i in (0, 2, 4)]
    assert torch.stack(parts).mean() == pytest.approx(whole.item())
    assert whole != pytest.approx(curve_loss(logits, curves, "bce").item())
    doubled = torch.cat([logits, logits[2:3]]), torch.cat([curves, curves[2:3]])
    both = curve_loss(*doubled, "mse") * 7
    assert curve_loss(logits, curves, "mse", torch.tensor([1.0, 1, 2, 1, 1, 1])) * 6 == pytest.approx(both)


def test_class_shares_reach_the_classifier(backbone):
    rows = text_rows(backbone)
    module = DifficultyClassifier(lora=LoraSettings(r=2))
    module.adopt(module.build(rows))
    _, labels = module.classes_of(rows)
    shares = torch.tensor(np.bincount(labels, minlength=3) / len(labels)).float()
    start = module.net.predict_outputs(["how many eggs"]).softmax(1)[0]
    assert start == pytest.approx(shares, abs=0.15)
    assert not torch.allclose(start, torch.full((3,), 1 / 3), atol=0.05)


def test_inputs_are_standardised_only_where_asked():
    rows = Rows(
        ["a", "b", "c"],
        ["x", "y", "z"],
        {"inputs": np.array([[1.0], [3.0], [8.0]], np.float32), "curves": np.full((3, 2), 0.5, np.float32)},
        CurveSchema({"layer_2": 1}, 2, 16),
    )
    assert CurveMLP([2]).build(rows).input_mean == pytest.approx(4.0)
    plain = CurveMLP([2], standardise=False).build(rows)
    assert (plain.input_mean.item(), plain.input_scale.item()) == (0.0, 1.0)


def test_a_given_predictor_keeps_its_scales_and_trains_in_training_mode(backbone, tmp_path):
    write_tables(tmp_path)
    config = write_config(tmp_path, "curve_lora", backbone, head={"dropout": 0.5})
    assert main(["fit", "--config", config]) == 0
    first = tmp_path / "run" / "predictor"
    again = ["--model.predictor", str(first), "--trainer.default_root_dir", str(tmp_path / "again")]
    half = ["--data.train", str(tmp_path / "test"), "--data.val_fraction", "0.4"]
    assert main(["fit", "--config", config, *again, *half, "--data.batch_size", "4"]) == 0

    def scales(folder):
        return next(m for m in load_predictor(folder).head.modules() if isinstance(m, Standardise)).scale

    torch.testing.assert_close(scales(tmp_path / "again" / "predictor"), scales(first))
    module = CurveMLP()
    module.net = None
    module = CurveLoRA(predictor=str(first))
    module.trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    module._adopt(load_predictor(first))
    assert module.net.training
    assert module.net.head.training


def test_the_largest_budget_may_stand_among_the_validation_queries(backbone):
    train, val = text_rows(backbone), text_rows(backbone, 5)
    for rows, budgets in ((train, 48), (val, 112)):
        object.__setattr__(rows, "targets", {"budgets": np.full(len(rows), budgets)})
    module = BudgetRegressor(lora=LoraSettings(r=2), head=HeadSettings([4]))
    module.attach_rows("val", val)
    assert module.build(train).max_tokens == 112
    assert module.build(train).settings["num_calibration"] == 5


def test_a_new_calibration_replaces_the_old_one(backbone):
    module = BudgetRegressor(lora=LoraSettings(r=2), head=HeadSettings([4]))
    net = module.build(text_rows(backbone))
    net.keep_calibration(torch.arange(3), torch.full((3, 1), 50.0), torch.full((3,), 48.0), 3)
    net.keep_calibration(torch.tensor([0, 2]), torch.full((2, 1), 70.0), torch.full((2,), 64.0), 3)
    assert net.calibrator().budgets(np.array([10.0]), 0.5, max_tokens=128).size == 1
    assert torch.isfinite(net.calibration_predicted[:, 0]).tolist() == [True, False, True]
    assert net.calibration_predicted[[0, 2], 0].tolist() == [70.0, 70.0]


def test_what_is_dropped_depends_on_the_process_and_what_comes_first_on_the_seed(backbone):
    module = CurveLoRA(lora=LoraSettings(r=2))
    draws = []
    for rank in (0, 1):
        module._trainer = SimpleNamespace(current_epoch=0, global_rank=rank)
        module.on_train_batch_start({}, 3)
        draws.append(torch.rand(4))
    assert not torch.equal(*draws)
    orders = [list(LengthBatches([1] * 32, 4, shuffle=True, seed=seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    data = CurveDataModule(seed=0), CurveDataModule(seed=1)
    rows = Rows([str(i) for i in range(64)], [str(i) for i in range(64)], {"n": np.arange(64)})
    seen = []
    for module in data:
        module.rows["train"] = rows
        seen.append(next(iter(module.train_dataloader()))["rows"].tolist())
    assert seen[0] != seen[1]


def test_equal_texts_stay_on_one_side_of_a_split_and_overlap_is_refused():
    texts = [f"question {i % 20}" for i in range(80)]
    held_out = validation_rows(80, 0.2, 0, 0, texts)
    sides = {text: {bool(held_out[i]) for i in range(80) if texts[i] == text} for text in texts}
    assert all(len(found) == 1 for found in sides.values())
    assert 0 < held_out.sum() < 80
    different = [f"question {i}" for i in range(80)]
    np.testing.assert_array_equal(validation_rows(80, 0.2, 0, 0, different), validation_rows(80, 0.2, 0, 0))
    with pytest.raises(ValueError, match=r"data.test must not hold training questions, but 1 of 2 are"):
        refuse_overlap(["How many  eggs?"], ["how many eggs?", "other"], "data.test")
    with pytest.raises(ValueError, match=r"val_fraction must leave rows on both sides, got 0.5 of 1 texts"):
        validation_rows(4, 0.5, 0, 0, ["same"] * 4)
