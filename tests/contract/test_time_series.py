"""Forecasts by every causal architecture: padding, sampled paths, save and load, training."""

import pytest
import torch
from torch.nn.functional import pad
from transformers import AutoModelForTimeSeriesPrediction, Trainer, TrainingArguments

from catalog import CAUSAL, tiny
from subquad.hf import SubquadConfig, SubquadForCausalLM, SubquadForTimeSeries
from subquad.nn.forecast import LIKELIHOODS
from subquad.nn.likelihoods import mean_scale

STEM = {"kind": "series", "covariates": 1, "num_series": 4, "embed_dim": 4}


def config(arch, likelihood="gaussian"):
    head = {"kind": "forecast", "likelihood": likelihood}
    return SubquadConfig(arch=arch, model=tiny(arch), stem=STEM, head=head)


def made(arch="logsparse", likelihood="gaussian", dtype=torch.float64):
    torch.manual_seed(4)
    m = SubquadForTimeSeries(config(arch, likelihood)).to(dtype).eval()
    for p in m.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.15)
    return m


def series(batch, length, dtype=torch.float64):
    """Inputs, targets and scale: the value of a token is the target of the one before."""
    targets = torch.randint(0, 30, (batch, length)).to(dtype)
    targets[torch.rand(batch, length) < 0.1] = torch.nan
    scale = mean_scale(targets)
    value = pad(targets, (1, -1), value=0.0) / scale[:, None]
    number = torch.arange(batch)[:, None].expand(-1, length) % 4
    return torch.stack((value, torch.randn(batch, length), number), -1).to(dtype), targets, scale


@pytest.mark.parametrize("arch", CAUSAL)
def test_batched_equals_alone(arch):
    m, (x, targets, scale), lengths = made(arch), series(3, 40), [40, 23, 1]
    for side in ("left", "right"):
        slots, ends = torch.arange(40), torch.tensor(lengths)[:, None]
        mask = (slots < ends if side == "right" else slots >= 40 - ends).long()
        given = {"inputs": x, "attention_mask": mask, "targets": targets, "scale": scale}
        out, losses = m(**given), []
        for b in range(3):
            real = mask[b].bool()
            one = m(x[b][real][None], targets=targets[b][real][None], scale=scale[b : b + 1])
            torch.testing.assert_close(out.params[b][real], one.params[0], rtol=1e-10, atol=1e-10)
            losses.append(one.loss * (~targets[b][real].isnan()).sum())
        count = (~targets[mask.bool()].isnan()).sum()
        torch.testing.assert_close(out.loss, sum(losses) / count, rtol=1e-10, atol=1e-10)


def reread(m, context, future, scale, horizon, samples, generator):
    """Paths without a state: everything is read again for every step of every sample."""
    each = torch.arange(len(context)).repeat_interleave(samples)
    x, future, scale = context[each], future[each], scale[each]
    drawn = []
    for step in range(horizon):
        params = m(x).params[:, -1:]
        drawn.append(m.likelihood.sample(params, scale, generator))
        if step < horizon - 1:
            token = torch.cat((drawn[-1] / scale[:, None], future[:, step]), 1)
            x = torch.cat((x, token[:, None]), 1)
    return torch.cat(drawn, 1).view(len(context), samples, horizon)


@pytest.mark.parametrize(
    ("arch", "likelihood"),
    [*((arch, "gaussian") for arch in CAUSAL), *(("logsparse", name) for name in LIKELIHOODS)],
)
def test_paths_by_state_are_those_of_reading_all_again(arch, likelihood):
    m, (x, _, scale) = made(arch, likelihood), series(2, 20)
    context, future, horizon = x[:, :15], x[:, 15:, 1:], 5
    generators = [torch.Generator().manual_seed(7) for _ in range(2)]
    found = m.paths(context, future, scale, horizon=horizon, num_samples=3, generator=generators[0])
    with torch.no_grad():
        expected = reread(m, context, future, scale, horizon, 3, generators[1])
    assert found.shape == (2, 3, horizon)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert len(found.unique()) > 6  # samples differ


@pytest.mark.parametrize("side", ["left", "right"])
def test_paths_of_padded_rows_are_those_of_rows_alone(side):
    m, (x, _, scale) = made(), series(2, 20)
    slots, ends = torch.arange(20), torch.tensor([20, 9])[:, None]
    mask = slots < ends if side == "right" else slots >= 20 - ends
    future = torch.randn(2, 3, 2, dtype=torch.float64)
    future[..., 1] = x[:, :3, 2]

    class Middle:  # no chance: the mean in place of a sample
        def sample(self, params, scale, generator):
            return m.model.head.likelihood.mean(params, scale)

    m.__class__ = type("Sure", (SubquadForTimeSeries,), {"likelihood": Middle()})
    found = m.paths(x, future, scale, horizon=4, num_samples=2, attention_mask=mask.long())
    for b in range(2):
        one = x[b][mask[b]][None], future[b : b + 1], scale[b : b + 1]
        alone = m.paths(*one, horizon=4, num_samples=1)
        torch.testing.assert_close(found[b], alone[0].expand(2, -1), rtol=1e-10, atol=1e-10)


def test_a_gaussian_without_scale_has_the_loss_of_its_numbers():
    m, (x, targets, scale) = made(), series(2, 12)
    params = m(x).params
    known = torch.rand(2, 12) < 0.5
    loss = m(x, targets=targets, observed=known, scale=scale).loss
    known &= ~targets.isnan()
    z = targets.nan_to_num() / scale[:, None]
    wanted = -torch.distributions.Normal(*params.unbind(-1)).log_prob(z)
    wanted = (wanted + scale.log()[:, None])[known].mean()
    torch.testing.assert_close(loss, wanted)
    plain = m(x, targets=targets).loss
    torch.testing.assert_close(plain, m(x, targets=targets, scale=torch.ones(2)).loss)


def test_last_outputs_are_scored_by_the_last_targets():
    m, (x, targets, scale) = made("perceiver_ar").train(), series(2, 40)
    for mask in (None, torch.arange(40) >= 40 - torch.tensor([40, 33])[:, None]):
        real = torch.ones(2, 40, dtype=torch.bool) if mask is None else mask
        for side in ("left", "right"):
            order = real if side == "left" else real.flip(1)
            moved = [torch.zeros_like(t) for t in (x, targets)]
            for new, old in zip(moved, (x, targets), strict=True):
                new[order] = old[real]
            given = {"inputs": moved[0], "targets": moved[1], "scale": scale}
            out = m(**given, attention_mask=None if mask is None else order.long())
            count = out.params.shape[1]
            assert count < 33
            wanted = m.likelihood.loss(out.params, targets[:, -count:], None, scale)
            torch.testing.assert_close(out.loss, wanted)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_saved_and_loaded_by_the_auto_class(likelihood, tmp_path):
    m, x = made(likelihood=likelihood, dtype=torch.float32), series(2, 20, torch.float32)[0]
    m.save_pretrained(tmp_path)
    again = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path).eval()
    assert type(again) is SubquadForTimeSeries
    assert torch.equal(again(x).params, m(x).params)


def test_trainer_trains(tmp_path):
    torch.manual_seed(1)
    m, rows = made(dtype=torch.float32), []
    for i in range(16):
        wave = 20 + 10 * torch.sin(torch.arange(33) * 0.7 + i)
        scale = mean_scale(wave[None])[0]
        x = torch.stack((wave[:-1] / scale, torch.zeros(32), torch.full((32,), float(i % 4))), -1)
        rows.append({"inputs": x, "targets": wave[1:], "scale": scale})
    args = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=20,
        per_device_train_batch_size=16,
        learning_rate=1e-2,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        label_names=["targets"],
    )
    trainer = Trainer(model=m, args=args, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0] - 0.5
    assert trainer.evaluate()["eval_loss"] < losses[0] - 0.5


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="a stem of kind 'tokens' reads no series; give stem="):
        SubquadForTimeSeries(SubquadConfig(arch="logsparse", model=tiny("logsparse")))
    fields = {**tiny("local"), "causal": False}
    with pytest.raises(ValueError, match="needs local with causal=True"):
        SubquadForTimeSeries(SubquadConfig(arch="local", model=fields, stem=STEM))
    with pytest.raises(ValueError, match="conformer always looks ahead"):
        SubquadForTimeSeries(SubquadConfig(arch="conformer", stem=STEM))
    bare = SubquadConfig(arch="local", model=tiny("local"), stem=STEM)
    assert SubquadForTimeSeries(bare).config.head["likelihood"] == "gaussian"
    m, (x, targets, _) = made(), series(2, 10)
    with pytest.raises(ValueError, match=r"targets are \(2, 9\) and inputs \(2, 10\)"):
        m(x, targets=targets[:, 1:])
    with pytest.raises(ValueError, match=r"scale is \(3,\) and the batch has 2 rows"):
        m(x, targets=targets, scale=torch.ones(3))
    with pytest.raises(ValueError, match=r"future is \(2, 3, 2\); .* \(2, at least 5, 2\)"):
        m.paths(x, x[:, :3, 1:], horizon=6)
    with pytest.raises(ValueError, match="a forecast of 0 samples over 2 steps after 10 tokens"):
        m.paths(x, x[:, :3, 1:], horizon=2, num_samples=0)
    with pytest.raises(ValueError, match="take no calendar"):
        m(x, calendar=x)
    words = SubquadConfig(arch="local", model=tiny("local"), stem=STEM)
    with pytest.raises(ValueError, match="series must be floating point"):
        SubquadForCausalLM(words)(torch.zeros(1, 4, dtype=torch.int64))
