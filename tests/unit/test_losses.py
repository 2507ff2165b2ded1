"""The loss in chunks: equal to the plain one, gradients too, and logits are never whole."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import subquad as sq
from subquad.nn.losses import chunked_cross_entropy, token_loss


def setting(length, words=11, dtype=torch.float64):
    head = nn.Linear(6, words, dtype=dtype)
    features = torch.randn(2, length, 6, dtype=dtype, requires_grad=True)
    return head, features, torch.randint(0, words, (2, length))


def gradients(loss, head, features):
    return [loss, *torch.autograd.grad(loss, [features, *head.parameters()])]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk", [1, 7, 8, 26, 100])
@pytest.mark.parametrize("scored", ["all", "some"])
def test_equals_the_plain_loss_gradients_too(chunk, label_smoothing, scored):
    head, features, targets = setting(13)
    if scored == "some":
        targets[0, :9] = -100
    plain = F.cross_entropy(
        head(features).flatten(0, 1), targets.flatten(), label_smoothing=label_smoothing
    )
    found = chunked_cross_entropy(
        features, head, targets, chunk=chunk, label_smoothing=label_smoothing
    )
    for a, b in zip(
        gradients(found, head, features), gradients(plain, head, features), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_scores_in_float32_at_least():
    head, features, targets = setting(20, dtype=torch.bfloat16)
    found = chunked_cross_entropy(features, head, targets, chunk=9)
    assert found.dtype == torch.float32
    plain = F.cross_entropy(head(features).flatten(0, 1).float(), targets.flatten())
    torch.testing.assert_close(found, plain, rtol=1e-6, atol=0)


def test_dropout_in_the_projection_is_the_same_in_backward():
    head, features, targets = setting(30)
    dropping = nn.Sequential(nn.Dropout(0.5), head)

    def loss(x):
        torch.manual_seed(3)
        return chunked_cross_entropy(x, dropping, targets, chunk=7)

    assert torch.autograd.gradcheck(loss, [features])


def test_logits_are_never_whole():
    head, features, targets = setting(1000, words=50)
    seen = []

    def project(rows):
        seen.append(len(rows))
        return head(rows)

    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        loss = chunked_cross_entropy(features, project, targets, chunk=64)
    loss.backward()
    assert max(seen) == 64
    assert sum(seen) == 2 * 2000  # once forward, once again in backward
    assert max(kept, default=0) <= max(features.numel(), head.weight.numel()) < 2000 * 50


def test_chunks_hold_a_fixed_number_of_logits(monkeypatch):
    monkeypatch.setattr("subquad.nn.losses.LOGITS", 1000)
    head, features, targets = setting(100)
    seen = []

    def project(rows):
        seen.append(len(rows))
        return head(rows)

    found = token_loss(features, project, targets, vocab_size=11, label_smoothing=0.1)
    assert seen == [90, 90, 20]
    plain = F.cross_entropy(head(features).flatten(0, 1), targets.flatten(), label_smoothing=0.1)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=0)


def test_nothing_scored_is_no_number_as_in_the_plain_loss():
    head, features, _ = setting(9)
    nothing = torch.full((2, 9), -100)
    assert chunked_cross_entropy(features, head, nothing, chunk=4).isnan()


def test_what_does_not_fit_is_said():
    head, features, targets = setting(5)
    with pytest.raises(ValueError, match=r"targets are \(2, 4\) and features \(2, 5\)"):
        chunked_cross_entropy(features, head, targets[:, :4], chunk=3)
    with pytest.raises(ValueError, match="at least 1 position, not 0"):
        chunked_cross_entropy(features, head, targets, chunk=0)


@pytest.mark.parametrize("limit", [1 << 24, 300])
def test_the_shell_scores_targets_without_logits(monkeypatch, limit):
    from subquad.hf import SubquadConfig, SubquadForCausalLM

    monkeypatch.setattr("subquad.nn.losses.LOGITS", limit)
    fields = vars(sq.ARCHS["local"].PRESETS["tiny"])
    config = SubquadConfig(arch="local", model=fields, head={"bias": True}, vocab_size=50)
    model = SubquadForCausalLM(config).double()
    ids = torch.randint(0, 50, (2, 22))
    ids, targets = ids[:, :-1], ids[:, 1:]
    parameters = list(model.parameters())
    out = model(input_ids=ids, targets=targets, label_smoothing=0.1)
    assert out.logits is None
    found = torch.autograd.grad(out.loss, parameters)
    plain = F.cross_entropy(
        model(input_ids=ids).logits.flatten(0, 1), targets.flatten(), label_smoothing=0.1
    )
    torch.testing.assert_close(out.loss, plain, rtol=1e-12, atol=0)
    for a, b in zip(found, torch.autograd.grad(plain, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    (alone,) = model(input_ids=ids, targets=targets, label_smoothing=0.1, return_dict=False)
    torch.testing.assert_close(alone, plain, rtol=1e-12, atol=0)
    first = model(input_ids=ids, targets=targets, use_cache=True)
    assert first.past_key_values.get_seq_length() == 21


def test_the_task_lm_scores_so():
    from subquad.data.vocabulary import Bytes
    from subquad.hf import SubquadForCausalLM
    from subquad.tasks.lm import LanguageModel, LanguageModelConfig

    task = LanguageModel(LanguageModelConfig(), Bytes())
    model = task.build("local", vars(sq.ARCHS["local"].PRESETS["tiny"]))
    assert isinstance(model, SubquadForCausalLM)
    ids = torch.randint(0, 256, (2, 22))
    batch = {"input_ids": ids[:, :-1], "targets": ids[:, 1:]}
    logits = model(input_ids=batch["input_ids"]).logits
    wanted = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), label_smoothing=0.1)
    torch.testing.assert_close(task.loss(model, batch, 0.1), wanted)
