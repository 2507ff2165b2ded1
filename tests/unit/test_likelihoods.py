"""Likelihoods: against torch.distributions, at extremes, drawn and asked for quantiles."""

from math import ceil, comb, log

import pytest
import torch
from torch import distributions

from subquad.nn.forecast import LIKELIHOODS, ForecastHeadConfig
from subquad.nn.likelihoods import mean_scale
from subquad.ops.beta import incomplete_beta

pytestmark = pytest.mark.usefixtures("one_thread")

LEVELS = (0.1, 0.25, 0.5, 0.9)
NAMES = list(LIKELIHOODS)
FAMILIES = [name for name in NAMES if name != "quantiles"]
SCALE = torch.tensor([0.3, 1.0, 700.0], dtype=torch.float64)


def of(name):
    return LIKELIHOODS[name](LEVELS)


def given(name, batch=3, steps=5, dtype=torch.float64):
    """A likelihood and what its linear map might give."""
    made = of(name)
    return made, torch.randn(batch, steps, len(made.names), dtype=dtype)


def known(name, params, scale):
    """The same distribution of torch's, of the target itself."""
    s = scale[:, None]
    if name == "gaussian":
        return distributions.Normal(params[..., 0] * s, params[..., 1] * s)
    if name == "student_t":
        freedom, place, width = params.unbind(-1)
        return distributions.StudentT(freedom, place * s, width * s)
    mean, size = params[..., 0] * s, s.sqrt() / params[..., 1]
    return distributions.NegativeBinomial(size, probs=mean / (mean + size))


@pytest.mark.parametrize("name", FAMILIES)
def test_score_and_its_gradient_are_those_of_torch_distributions(name):
    likelihood, raw = given(name)
    found = []
    for ours in (True, False):
        x = raw.clone().requires_grad_()
        params = likelihood.parameters(x)
        theirs = known(name, params, SCALE)
        torch.manual_seed(1)
        target = theirs.sample()
        score = likelihood.score(params, target, SCALE) if ours else -theirs.log_prob(target)
        found.append((score, *torch.autograd.grad(score.sum(), x)))
        torch.testing.assert_close(likelihood.mean(params, SCALE), theirs.mean)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_pinball_loss_by_its_definition():
    likelihood, raw = given("quantiles")
    params, target = likelihood.parameters(raw), torch.randn(3, 5, dtype=torch.float64)
    z = target / SCALE[:, None]
    expected = torch.zeros_like(z)
    for at, level in enumerate(LEVELS):
        below = (z < params[..., at]).double()
        expected += 2 * (level - below) * (z - params[..., at]) / len(LEVELS)
    found = likelihood.score(params, target, SCALE)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert (params.diff(dim=-1) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_loss_counts_what_was_observed_alone(name):
    likelihood, raw = given(name)
    params = likelihood.parameters(raw.requires_grad_())
    target = torch.randint(0, 9, (3, 5)).double()
    observed = torch.rand(3, 5) < 0.6
    wanted = likelihood.score(params, target, SCALE)[observed].mean()
    target[~observed] = torch.tensor([torch.nan, -7.0]).double().repeat(8)[: int((~observed).sum())]
    loss = likelihood.loss(params, target, observed, SCALE)
    torch.testing.assert_close(loss, wanted)
    assert torch.isfinite(torch.autograd.grad(loss, raw, retain_graph=True)[0]).all()
    # NaN is not observed, with or without being told
    some = observed | target.isnan()
    torch.testing.assert_close(likelihood.loss(params, target, some, SCALE), wanted)
    nothing = likelihood.loss(params, target, torch.zeros_like(observed), SCALE)
    assert nothing == 0
    assert (torch.autograd.grad(nothing, raw)[0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("raw", [-300.0, -20.0, 0.0, 20.0, 300.0])
@pytest.mark.parametrize("name", NAMES)
def test_finite_at_extremes(name, raw, dtype):
    likelihood = of(name)
    scale = torch.tensor([1.0, 1e-30, 1e6], dtype=dtype)
    # nothing counted; a constant series, met exactly; a few scales away
    target = scale[:, None] * torch.tensor([0.0, 1.0, 3.0], dtype=dtype)
    x = torch.full((3, 3, len(likelihood.names)), raw, dtype=dtype).requires_grad_()
    params = likelihood.parameters(x)
    loss = likelihood.loss(params, target, None, scale)
    (grad,) = torch.autograd.grad(loss, x)
    assert torch.isfinite(params).all()
    assert torch.isfinite(loss)
    assert torch.isfinite(grad).all()
    assert torch.isfinite(likelihood.sample(params, scale)).all()


@pytest.mark.parametrize("name", NAMES)
def test_float32_scores_as_float64(name):
    likelihood, raw = given(name)
    target = torch.randint(0, 900, (3, 5)).double()
    exact = likelihood.score(likelihood.parameters(raw), target, SCALE)
    low = likelihood.score(likelihood.parameters(raw.float()), target.float(), SCALE.float())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), exact, rtol=1e-4, atol=1e-4)
    assert likelihood.parameters(raw.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_mean_and_the_quantiles_that_are_told(name):
    likelihood, raw = given(name, 3, 1)
    params = likelihood.parameters(raw).repeat(1, 20_000, 1)
    scale = SCALE.clamp(min=1.0)
    z = likelihood.sample(params, scale, torch.Generator().manual_seed(3))
    one = params[:, :1]
    for q in (0.05, 0.3, 0.5, 0.9):
        bound = likelihood.quantile(one, scale, q)
        share = (z <= bound).double().mean(1)
        # five standard errors of a share of 20,000; a count or an outer level has a share at once
        assert (share > q - 0.018).all()
        assert ((z < bound).double().mean(1) < q + 0.018).all()
    spread = z.std(1) / 20_000**0.5
    assert ((z.mean(1) - likelihood.mean(one, scale)[:, 0]).abs() < 5 * spread + 1e-9).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_generator_draws_the_same(name):
    likelihood, raw = given(name)
    params = likelihood.parameters(raw)
    draws = [
        likelihood.sample(params, SCALE, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_quantiles_of_known_distributions():
    gaussian, student, counts = (of(name) for name in FAMILIES)
    one = torch.ones(1, dtype=torch.float64)
    params = torch.tensor([[[2.0, 3.0]]], dtype=torch.float64)
    assert gaussian.quantile(params, one, 0.975).item() == pytest.approx(2 + 3 * 1.959963984540054)
    # tables of Student's t: 0.975 at 4 and 10 degrees of freedom
    for freedom, bound in ((4.0, 2.776445105), (10.0, 2.228138852)):
        params = torch.tensor([[[freedom, 1.0, 2.0]]], dtype=torch.float64)
        for q, sign in ((0.975, 1), (0.025, -1)):
            found = student.quantile(params, one, q).item()
            assert found == pytest.approx(1 + sign * 2 * bound, abs=1e-8)
        assert student.quantile(params, one, 0.5).item() == pytest.approx(1.0, abs=1e-8)
    # shape 1: P(Z <= k) = 1 - (mu / (1 + mu))^(k + 1)
    params = torch.tensor([[[4.0, 1.0]]], dtype=torch.float64)
    for q in (0.1, 0.5, 0.97):
        exact = ceil(-log(1 - q) / log(5 / 4)) - 1
        assert counts.quantile(params, one, q).item() == exact


def test_quantiles_between_and_beyond_levels():
    likelihood = of("quantiles")
    params = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]], dtype=torch.float64)
    scale = torch.tensor([10.0], dtype=torch.float64)
    found = [likelihood.quantile(params, scale, q).item() for q in (0.01, 0.1, 0.375, 0.7, 0.99)]
    assert found == pytest.approx([10.0, 10.0, 30.0, 60.0, 80.0])
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    mean = likelihood._at(params.expand(1, 100_000, 4), u[None], scale).mean()
    assert likelihood.mean(params, scale).item() == pytest.approx(mean.item(), rel=1e-6)


def test_the_incomplete_beta_function_of_whole_numbers():
    """I_x(a, b) = P(at least a of a + b - 1 tosses fall to x)."""
    x = torch.tensor([0.0, 0.05, 0.4, 0.77, 1.0], dtype=torch.float64)
    for a, b in ((1, 1), (3, 8), (20, 2), (9, 9)):
        n = a + b - 1
        exact = sum(comb(n, k) * x**k * (1 - x) ** (n - k) for k in range(a, n + 1))
        found = incomplete_beta(torch.tensor(a), torch.tensor(b), x)
        torch.testing.assert_close(found, exact, rtol=1e-11, atol=1e-14)
    half = incomplete_beta(torch.tensor(1e6), torch.tensor(1e6), torch.tensor(0.5))
    assert half.item() == pytest.approx(0.5, abs=1e-8)


def test_mean_scale():
    target = torch.tensor([[2.0, -4.0, torch.nan, 100.0], [torch.nan] * 4, [0.0] * 4])
    observed = torch.tensor([[True, True, True, False], [True] * 4, [True] * 4])
    assert mean_scale(target, observed).tolist() == [4.0, 1.0, 1.0]
    assert mean_scale(target).tolist() == [pytest.approx(1 + 106 / 3), 1.0, 1.0]
    assert mean_scale(target.double()).dtype == torch.float64
    assert mean_scale(target.bfloat16()).dtype == torch.float32


def test_what_cannot_be_is_said():
    counts, raw = given("negative_binomial")
    params, target = counts.parameters(raw), torch.ones(3, 5)
    target[1, 2] = -3.0
    with pytest.raises(ValueError, match=r"counts, and a target is -3 \(row 1, step 2\)"):
        counts.loss(params, target, None, SCALE)
    observed = torch.ones(3, 5, dtype=torch.bool)
    observed[1, 2] = False
    assert torch.isfinite(counts.loss(params, target, observed, SCALE))
    with pytest.raises(ValueError, match=r"asked for at 1\.0; it must lie between 0 and 1"):
        counts.quantile(params, SCALE, 1.0)
    with pytest.raises(ValueError, match=r"levels are \(0\.5, 0\.1\); quantiles need rising ones"):
        ForecastHeadConfig("quantiles", (0.5, 0.1)).build(8, 0)
    with pytest.raises(ValueError, match="'student'; did you mean 'student_t'"):
        ForecastHeadConfig("student").build(8, 0)
