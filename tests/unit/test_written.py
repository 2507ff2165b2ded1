"""Tasks that write: what is read and written of a row, how it is foreseen and compared."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from subquad.archs import PAIRS, pair_parts
from subquad.data.examples import Examples
from subquad.tasks.caption import Caption, CaptionConfig
from subquad.tasks.encoder import placed
from subquad.tasks.rouge import KEYS, rouge, words
from subquad.tasks.summarize import Summarize, SummarizeConfig
from subquad.tasks.task import Share
from subquad.tasks.translate import Translate
from subquad.tasks.translate_config import TranslateConfig

pytestmark = pytest.mark.usefixtures("one_thread")

STORIES = [
    {"text": f"{name} went to the {place} and then went home", "summary": f"{name}: {place}"}
    for name in ("Ann", "Bob", "Cid")
    for place in ("sea", "wood")
]


def opened(task, rows):
    task.examples = Examples(dict.fromkeys(("train", "valid", "test"), rows), "some rows", "key")
    task.learn(rows)
    return task


def summarize(**fields):
    return opened(Summarize(SummarizeConfig(tokenizer="bytes", **fields)), STORIES)


def model_of(task, pair="led"):
    torch.manual_seed(0)
    return task.build(pair, dict(vars(PAIRS[pair].PRESETS["tiny"])))


def test_what_is_read_and_written():
    task = summarize(context=6, target=4)
    item = task.inputs(STORIES[0]) | task.targets(STORIES[0])
    assert item["input_ids"].tolist() == [task.words.mark, *b"Ann w"]
    assert item["global_attention_mask"].tolist() == [1, 0, 0, 0, 0, 0]
    # what is cut does not end: the model must not learn to stop there
    assert item["labels"].tolist() == [*b"Ann:"]
    assert task.target({"summary": "Ann"}) == [*b"Ann", task.words.boundary]
    ended = torch.tensor([*b"nn", task.words.boundary])
    batch = task.collate([item, {**item, "labels": ended}])
    assert batch["labels"][1].tolist() == [*b"nn", task.words.boundary, -100]
    model = model_of(task)
    given = model.prepare_decoder_input_ids_from_labels(batch["labels"])
    assert given[1].tolist() == [task.words.boundary, *b"nn", task.words.boundary]


def test_targets_that_are_cut_are_counted():
    task = summarize(target=9)
    # "Ann: wood" has 9 bytes, and no place for its end
    told = "3 targets cut at 9 tokens, without an end"
    assert told in task.validate(model_of(task), Share()).protocol
    assert told in task.says(STORIES)
    assert "cut" not in summarize(target=10).says(STORIES)
    left = Translate(TranslateConfig(tokenizer="bytes", target=4))
    pairs = [{"text": "a", "translation": "b"}, {"text": "a", "translation": "bbbbbb"}]
    assert "1 targets cut at 4 tokens" in opened(left, pairs).says(pairs)
    assert left.data_facts["left_out"] == {"more than 256 tokens to read or 4 to write": 1}


def stems(position, pair="encoder_decoder", **fields):
    task = summarize(context=40, target=9, position=position)
    parts = task.parts(pair, {"dim": 16, "num_heads": 2, **fields})
    return parts["encoder"]["stem"], parts["stem"]


def test_positions_of_both_sides():
    # rotary ones are the architectures' own; a side without any has sinusoids
    assert [stem["position"] for stem in stems("auto")] == ["none", "none"]
    plain = {"encoder": "perceiver"}
    source, target = stems("auto", **plain)
    assert (source["position"], source["scale"]) == ("sinusoidal", 4.0)
    assert (target["position"], target["scale"]) == ("none", 1.0)
    assert [stem["position"] for stem in stems("none", **plain)] == ["none", "none"]
    assert [stem["max_len"] for stem in stems("learned")] == [40, 9]
    # a pair's own stay, with all else that its stems have
    source, target = stems("auto", "led")
    assert (source["position"], source["max_len"], target["max_len"]) == ("learned", 16_384, 1_024)
    assert stems("learned", "led")[0]["norm"] == "layer"
    assert stems("auto", "lite_pair")[0]["scale"] == 4.0
    task = summarize(position="learned", target=9)
    model = model_of(task, "encoder_decoder")
    assert model.model.decoder.stem.position.max_len == 9
    assert task.predict(model.eval(), STORIES[0])["summary"] is not None


@pytest.mark.parametrize("pair", PAIRS)
def test_it_learns_and_writes_what_it_learnt(pair):
    task = summarize(target=16)
    model = model_of(task, pair)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    items = task.train_set(12 * 120, seed=0)
    for step in range(120):
        batch = task.collate([items[12 * step + i] for i in range(12)])
        loss = task.loss(model, batch, 0.0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    foreseen = task.validate(model, Share()).numbers
    assert foreseen["token_accuracy"] == 1.0
    result = task.score(model.eval(), task.known, "test", None, Share())
    assert result.numbers["exact_match"] == result.numbers["rougeL"] == 1.0
    assert "written greedily; ROUGE is F1" in result.protocol
    assert task.predict(model, STORIES[3]) == {"summary": STORIES[3]["summary"]}
    assert task.told({"summary": "x"}) == "x"


def test_foreseen_as_by_hand():
    task = summarize(target=8)
    model = model_of(task).eval().requires_grad_(False)
    found = task.foreseen(model, STORIES, Share())
    nats = count = right = 0
    for row in STORIES:
        batch = task.collate([task.inputs(row)])
        goal = torch.tensor(task.target(row))
        given = torch.cat((torch.tensor([task.words.boundary]), goal[:-1]))
        logits = model(**batch, decoder_input_ids=given[None]).logits[0]
        nats += float(F.cross_entropy(logits, goal, reduction="sum"))
        right += int((logits.argmax(-1) == goal).sum())
        count += len(goal)
    assert found["bits_per_token"] == pytest.approx(nats / math.log(2) / count, rel=1e-5)
    assert found["token_accuracy"] == pytest.approx(right / count)
    assert found["tokens"] == count
    halves = []
    for rank in range(2):
        task.foreseen(model, STORIES * 160, Share(rank, 2, lambda t: halves.append(t) or t))
    whole = task.foreseen(model, STORIES * 160, Share())
    assert float(sum(halves)[0]) == whole["tokens"]


def test_written_text_is_compared():
    task = summarize()
    rows = [{"summary": "a cat sat"}, {"summary": "a dog"}]
    found = task.measured(task.counted(["a cat sat", "a cat"], rows))
    assert found["exact_match"] == 0.5
    assert found["rouge1"] == pytest.approx((1 + 0.5) / 2)
    assert found["rouge2"] == pytest.approx(0.5)
    assert task._said([65, 66, task.words.boundary, 67]) == "AB"
    assert task._said([65, 66]) == "AB"


def test_rouge_of_any_script():
    task = summarize()
    for text in ("Кошка сидела на окне.", "猫坐在窗台上。", "แมวนั่ง", "हिन्दी में", "Ça été là"):
        found = task.measured(task.counted([text], [{"summary": text}]))
        assert found["rouge1"] == found["rouge2"] == found["rougeL"] == 1.0, text
    assert words("Кошка, ёж-2!") == ["кошка", "ёж", "2"]
    assert words("猫坐在window上。") == ["猫", "坐", "在", "window", "上"]
    assert words("ガガ") == ["ガ", "ガ"]  # composed or not
    assert words("हिन्दी में") == ["हिन्दी", "में"]
    assert words("แมวนั่ง") == ["แ", "ม", "ว", "นั่", "ง"]
    assert rouge("猫在上", "猫坐在窗台上")[0] == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert rouge("Кошка спит", "Собака спит")[0] == pytest.approx(0.5)
    assert "letters and digits of any script" in task.says(STORIES)


def test_rouge_of_ascii_is_the_original():
    from torchmetrics.functional.text.rouge import rouge_score

    draw = np.random.default_rng(0)
    signs = np.array([chr(i) for i in range(128)])
    texts = ["".join(draw.choice(signs, 200)) for _ in range(20)]
    texts += ["It's a cat_dog; 3.5% of U.S.A.\n", "A cat -- dog, 35 of us a", "", " \t"]
    for said in texts:
        for true in texts:
            theirs = rouge_score(said, true, rouge_keys=KEYS)
            assert rouge(said, true) == [float(theirs[f"{key}_fmeasure"]) for key in KEYS]


def pictures():
    rows = []
    for number, name in enumerate(("red", "green", "blue")):
        image = np.zeros((8, 8, 3), np.uint8)
        image[..., number] = 255
        rows.append({"image": image, "caption": f"all {name}"})
    return rows


def test_captions_of_pictures(tmp_path):
    config = CaptionConfig(patch=4, tokenizer="bytes", target=12)
    task = opened(Caption(config), pictures())
    model = model_of(task, "encoder_decoder")
    assert model.main_input_name == "pixel_values"
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        batch = task.collate([task.inputs(r) | task.targets(r) for r in pictures()])
        task.loss(model, batch, 0.0).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    assert [task.predict(model, r)["caption"] for r in pictures()] == [
        r["caption"] for r in pictures()
    ]
    again = Caption.load(tmp_path, task.save(tmp_path))
    assert torch.equal(
        again.inputs(pictures()[0])["pixel_values"], task.inputs(pictures()[0])["pixel_values"]
    )
    np.savez(tmp_path / "one.npz", images=pictures()[1]["image"][None])
    assert task.predict(model, task.read(tmp_path / "one.npz"))["caption"] == "all green"
    with pytest.raises(ValueError, match="not made of patches of 3 x 3"):
        opened(Caption(CaptionConfig(patch=3)), pictures())
    with pytest.raises(ValueError, match="beams is 0; it must be at least 1"):
        CaptionConfig(beams=0)


def test_positions_are_as_many_as_are_read():
    parts = pair_parts("led", {**vars(PAIRS["led"].PRESETS["tiny"])})
    for length in (6000, 100):
        stems = placed(parts, "auto", length, 20)
        assert stems["encoder"]["stem"]["max_len"] == max(length, 2048)
        assert stems["stem"]["max_len"] == parts["stem"]["max_len"]
