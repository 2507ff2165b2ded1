"""The best of several answers, over every architecture: padding, save and load, marks, training."""

import pytest
import torch
from transformers import AutoModelForMultipleChoice, Trainer, TrainingArguments

from catalog import BOTH_WAYS, tiny
from subquad.hf import SubquadConfig, SubquadForMaskedLM, SubquadForMultipleChoice


def config(arch, causal=False, **fields):
    return SubquadConfig(arch=arch, model=tiny(arch, causal=causal), vocab_size=50, **fields)


def made(arch, causal=False, **fields):
    torch.manual_seed(4)
    return SubquadForMultipleChoice(config(arch, causal, **fields)).double().eval()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("arch", "causal"), BOTH_WAYS)
def test_batched_equals_alone(arch, causal, side):
    m, ids = made(arch, causal), torch.randint(0, 50, (2, 3, 40))
    slots, ends = torch.arange(40), torch.tensor([[40, 23, 1], [17, 33, 40]])[..., None]
    mask = (slots < ends if side == "right" else slots >= 40 - ends).long()
    found = m(ids, attention_mask=mask).logits
    assert found.shape == (2, 3)
    for b in range(2):
        for k in range(3):
            alone = m(ids[b, k][mask[b, k].bool()][None, None]).logits
            torch.testing.assert_close(found[b, k], alone[0, 0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("arch", "causal"), BOTH_WAYS)
def test_saved_and_loaded_by_the_auto_class(arch, causal, tmp_path):
    m, ids = made(arch, causal).float(), torch.randint(0, 50, (2, 4, 20))
    m.save_pretrained(tmp_path)
    again = AutoModelForMultipleChoice.from_pretrained(tmp_path)
    assert type(again) is SubquadForMultipleChoice
    assert torch.equal(m(ids).logits, again(ids).logits)


def test_loss():
    """Cross entropy over the choices; -100 is not scored."""
    m, ids = made("local"), torch.randint(0, 50, (3, 4, 12))
    labels = torch.tensor([1, 3, -100])
    out = m(ids, labels=labels)
    chance = out.logits[:2].log_softmax(1)
    torch.testing.assert_close(out.loss, -(chance[0, 1] + chance[1, 3]) / 2)
    part = m(ids, labels=labels, num_items_in_batch=torch.tensor(4)).loss
    torch.testing.assert_close(part, out.loss / 2)
    assert torch.equal(m(ids, labels=labels, return_dict=False)[1], out.logits)


def test_one_number_whatever_the_configuration_names(tmp_path):
    """A model of three labels chooses too, and keeps their names."""
    names = {0: "a", 1: "b", 2: "c"}
    m = made("local", id2label=names, head={"kind": "labels", "pool": "mean", "hidden": "tanh"})
    assert m.model.head.label.out_features == 1
    m.save_pretrained(tmp_path)
    again = SubquadForMultipleChoice.from_pretrained(tmp_path)
    assert again.config.id2label == names
    assert (again.config.head["num_labels"], again.config.head["hidden"]) == (1, "tanh")


def test_a_language_model_learns_to_choose(tmp_path):
    lm = SubquadForMaskedLM(config("performer"))
    lm.save_pretrained(tmp_path)
    m = AutoModelForMultipleChoice.from_pretrained(tmp_path)
    for name, t in lm.model.backbone.state_dict().items():
        assert torch.equal(m.model.backbone.state_dict()[name], t)
    assert m.model.head.label.weight.shape == (1, 32)


def test_what_is_marked():
    """The answer, by separators; without them the first token; nothing beside marks given."""
    ids = torch.randint(3, 50, (1, 2, 40))
    ids[:, :, [12, 13, 39]] = 2
    plain, told = made("longformer"), made("longformer", sep_token_id=2)
    for m, marked in ((plain, slice(0, 1)), (told, slice(14, 40))):
        marks = torch.zeros_like(ids)
        bare = m(ids, global_attention_mask=marks).logits
        marks[:, :, marked] = 1
        assert torch.equal(m(ids).logits, m(ids, global_attention_mask=marks).logits)
        assert not torch.equal(m(ids).logits, bare)
    embedded = plain.get_input_embeddings()(ids)
    assert torch.equal(plain(inputs_embeds=embedded).logits, plain(ids).logits)


def test_what_is_refused():
    m, ids = made("local"), torch.randint(0, 50, (2, 3, 12))
    with pytest.raises(ValueError, match=r"input_ids is \(2, 12\): choices come as \(batch, choi"):
        m(ids[:, 0])
    with pytest.raises(ValueError, match=r"attention_mask is \(2, 12\): .* here all \(2, 3, 12\)"):
        m(ids, attention_mask=torch.ones(2, 12))
    with pytest.raises(ValueError, match=r"pass input_ids \(batch, choices, length\), or inputs_"):
        m(attention_mask=torch.ones(2, 3, 12))
    with pytest.raises(ValueError, match="subquad models take no position_ids"):
        m(ids, position_ids=ids)


def test_trainer_trains(tmp_path):
    """The choice that repeats one word is the right one."""
    m = made("local").float()
    rows = [
        {"input_ids": torch.arange(48).view(3, 16).index_fill(0, torch.tensor([i % 3]), 7)}
        | {"labels": i % 3}
        for i in range(30)
    ]
    args = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=20,
        per_device_train_batch_size=15,
        learning_rate=1e-2,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = Trainer(model=m, args=args, train_dataset=rows)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0] - 0.5
