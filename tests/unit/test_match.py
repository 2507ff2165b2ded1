"""Matching: the loss and recall by brute force, the temperature, padding, what predict reads."""

import math

import numpy as np
import pytest
import torch

from subquad import PAIRS
from subquad.data.examples import Examples
from subquad.nn.contrast import Temperature, alike, contrastive_loss, equal
from subquad.tasks.match import Match, MatchConfig
from subquad.tasks.recall import found_at, measured, searched
from subquad.tasks.task import Share

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = {
    "dim": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "num_heads": 2,
    "ffn_dim": 32,
    "dropout": 0.0,
}


def bars(count, side=8):
    """Bright bars that lie or stand in the upper left or lower right half."""
    rows = []
    for i in range(count):
        image = np.zeros((side, side, 3), np.uint8)
        at = i % side
        image[(at, slice(None)) if i % 2 else (slice(None), at)] = 250
        caption = f"{'a lying' if i % 2 else 'a standing'} bar, {'near' if at < 4 else 'far away'}"
        rows.append({"image": image, "caption": caption})
    return rows


def opened(rows, **fields):
    task = Match(MatchConfig(patch=4, context=40, width=12, tokenizer="bytes", **fields))
    task.examples = Examples(dict.fromkeys(("train", "valid", "test"), rows), "some rows", "key")
    task.learn(rows)
    return task


def built(rows, pair="encoder_decoder", **fields):
    torch.manual_seed(1)
    task = opened(rows)
    model = task.build(pair, {**vars(PAIRS[pair].PRESETS["tiny"]), **TINY, **fields}).double()
    return task, model.eval()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_by_brute_force(smoothing):
    logits = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    kinds = [0, 1, 0, 2, 1]
    same = torch.tensor([[a == b for b in kinds] for a in kinds])
    total = torch.zeros((), dtype=torch.float64)
    for s in (logits, logits.T):
        for i in range(5):
            of = [j for j in range(5) if kinds[j] == kinds[i]]
            log = s[i] - s[i].exp().sum().log()
            for j in range(5):
                wanted = (1 - smoothing) * (j in of) / len(of) + smoothing / 5
                total = total - wanted * log[j] / 10
    found = contrastive_loss(logits, same, label_smoothing=smoothing)
    torch.testing.assert_close(found, total, rtol=0, atol=1e-10)
    ours, theirs = (torch.autograd.grad(t, logits)[0] for t in (found, total))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match=r"logits are \(5, 5\) and same \(4, 5\)"):
        contrastive_loss(logits, same[:4])


def test_which_texts_are_the_same():
    tokens = torch.tensor([[1, 2, 0], [1, 2, 7], [1, 2, 0], [1, 3, 0]])
    valid = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0]]).bool()
    assert alike(tokens, valid).int().tolist() == [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    ]
    assert alike(tokens)[0].tolist() == [True, False, True, False]


def test_temperature_stays_below_a_hundred():
    t = Temperature()
    assert t(torch.ones(())).item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        t.bias.fill_(9.0)
    out = t(torch.ones(()))
    assert out.item() == pytest.approx(100)
    out.backward()
    assert t.bias.grad.item() == 0
    t.after_step(1)
    assert t.bias.item() == pytest.approx(math.log(100))
    t.bias.grad = None
    t(torch.ones(())).backward()  # at the border there is a gradient, to come back by
    assert t.bias.grad.item() == pytest.approx(100)


def test_recall_by_brute_force():
    draw = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(23, 4, dtype=torch.float64, generator=draw) for _ in range(2))
    kinds = [i % 9 for i in range(23)]
    counts = searched(images, texts, [f"caption {k}" for k in kinds], range(23))
    wanted = []
    for asked, pool in ((texts, images), (images, texts)):
        for k in (1, 10):
            hits = 0
            for i in range(23):
                order = sorted(range(23), key=lambda j: -float(asked[i] @ pool[j]))
                hits += any(kinds[j] == kinds[i] for j in order[:k])
            wanted.append(hits)
    assert counts[0] == 23
    assert counts[1:5].tolist() == wanted
    numbers = measured(counts)
    assert numbers["recall_at_10"] == pytest.approx((wanted[1] + wanted[3]) / 46)
    tries = 20_000
    rank = torch.rand(tries, 23, generator=draw).argsort(1)
    first = torch.tensor(kinds)[rank[:, 0]]
    for kind in (0, 8):  # three rows, and two
        rate = (first == kind).double().mean().item()
        assert rate == pytest.approx(kinds.count(kind) / 23, abs=0.01)
    by_hand = sum(kinds.count(k) / 23 for k in kinds) / 23
    assert numbers["chance_at_1"] == pytest.approx(by_hand)
    assert numbers["chance_at_1"] < numbers["chance_at_10"] < 1


def test_a_picture_with_several_captions_is_found_by_each():
    captions, pictures = [f"caption {i % 9}" for i in range(10)], [i // 5 for i in range(10)]
    images = torch.eye(2, dtype=torch.float64)[pictures]
    numbers = measured(searched(images, images, captions, pictures))
    assert numbers["text_to_image_at_1"] == numbers["image_to_text_at_1"] == 1
    # 0 and 9 have one caption and different pictures: 6 of 10 rows are right for them, and 5 else
    assert numbers["chance_at_1"] == pytest.approx((2 * 0.6 + 8 * 0.5) / 10)


def test_rows_with_one_picture_are_not_told_apart():
    pixels = torch.tensor([0, 1, 0, 2]).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    assert equal(pixels).int().tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]
    rows = [{**row, "image": bars(1)[0]["image"]} for row in bars(4)]
    task, model = built(bars(4))
    batch = task.collate([task.item(row) for row in rows])
    batch["pixel_values"] = batch["pixel_values"].double()
    wanted = contrastive_loss(model(**batch).logits_per_text, torch.ones(4, 4, dtype=torch.bool))
    torch.testing.assert_close(task.loss(model, batch, 0.0), wanted, rtol=0, atol=1e-12)


def test_what_is_equally_near_is_not_found():
    same = torch.ones(12, 3)
    assert found_at(same, same, torch.arange(12)[:, None], (1, 10, 12)) == [0, 0, 12]
    eye = torch.eye(12)
    assert found_at(eye, eye, torch.arange(12)[:, None], (1,)) == [12]


@pytest.mark.parametrize("causal", [True, False])
def test_a_text_in_a_batch_equals_it_alone(causal):
    rows = bars(8)
    rows[3]["caption"] = "bar"
    task, model = built(rows, decoder_fields={"causal": causal})
    assert model.config.head["pool"] == ("last" if causal else "mean")
    batch = task.batch(model, rows)
    batch["pixel_values"] = batch["pixel_values"].double()
    assert not batch["attention_mask"].all()
    out = model(**batch, return_loss=True)
    for i, row in enumerate(rows):
        alone = task.batch(model, [row])
        alone["pixel_values"] = alone["pixel_values"].double()
        one = model(**alone)
        for name in ("text_embeds", "image_embeds"):
            torch.testing.assert_close(one[name][0], out[name][i], rtol=0, atol=1e-10)
    torch.testing.assert_close(out.text_embeds.norm(dim=1), torch.ones(8).double())
    factor = torch.tensor(1 / 0.07).double()
    torch.testing.assert_close(
        out.logits_per_text, out.text_embeds @ out.image_embeds.T * factor, rtol=1e-6, atol=0
    )
    torch.testing.assert_close(out.loss, task.loss(model, batch, 0.0))


@pytest.mark.parametrize("pair", PAIRS)
def test_it_learns_and_is_scored_over_the_whole_part(pair):
    torch.manual_seed(0)
    rows = [{**row, "caption": row["caption"].split()[1]} for row in bars(48)]
    for number, row in enumerate(rows):  # the same bar throughout
        row["image"] = rows[number % 2]["image"]
    task = opened(rows)
    model = task.build(pair, vars(PAIRS[pair].PRESETS["tiny"]))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    items = task.train_set(800, seed=0)
    for step in range(40):
        batch = task.collate([items[step * 20 + i] for i in range(20)])
        task.loss(model, batch, 0.0).backward()
        optimizer.step()
        optimizer.zero_grad()
    result = task.validate(model, Share())
    assert result.numbers["recall_at_1"] == 1
    assert result.numbers["chance_at_1"] == pytest.approx(1 / 2)
    assert result.numbers["rows"] == 48
    # two processes that do a part each give the same numbers
    parts = []
    for rank in range(2):
        with pytest.raises(KeyboardInterrupt):
            task.validate(model, Share(rank, 2, keep(parts)))
    assert parts[0].any()
    whole = task.validate(model, Share(0, 2, lambda part: sum(parts)))
    assert whole == result


def keep(into):
    def total(part):
        into.append(part)
        raise KeyboardInterrupt

    return total


def test_what_predict_reads(tmp_path):
    rows = bars(6)
    task, model = built(rows)
    model = model.float()
    np.savez(tmp_path / "some.npz", images=np.stack([row["image"] for row in rows[:3]]))
    np.savez(tmp_path / "one.npz", images=np.stack([rows[3]["image"]]))
    names = [f"{tmp_path / 'some.npz'}:{i}" for i in range(3)] + [str(tmp_path / "one.npz")]
    given = [tmp_path / "some.npz", "a bar", {"image": str(tmp_path / "one.npz")}]
    given.append({"caption": "another"})
    found = [*task.predict_all(model, map(task.read, given))]
    assert [one["text"] for one in found] == ["a bar", "another"]
    for one in found:
        scores = [image["score"] for image in one["images"]]
        assert scores == sorted(scores, reverse=True)
        assert sorted(image["image"] for image in one["images"]) == sorted(names)
        text = model.read(**task.collate([task.said({"caption": one["text"]})]))
        for image in one["images"]:
            pixels = task.seen(rows[names.index(image["image"])])["pixel_values"]
            cosine = (text @ model.see(pixels[None]).T).item()
            assert image["score"] == pytest.approx(cosine, abs=1e-5)
    row = task.read({"image": rows[0]["image"].tolist(), "caption": "a bar"})
    (one,) = task.predict(model, row)
    assert task.told(one).splitlines()[0] == "a bar"
    with pytest.raises(ValueError, match="these are 0 pictures and 2 texts"):
        [*task.predict_all(model, map(task.read, ["a", "b"]))]
    with pytest.raises(ValueError, match="a row wants image or caption; this one has words"):
        task.read({"words": "x"})
    with pytest.raises(ValueError, match=r"there is no file none\.png"):
        task.read("none.png")


@pytest.mark.parametrize("image", [None, [[1, 2], [3, "x"]], [[1], [2, 3]], [[0.5]], [[-1]]])
def test_what_is_no_picture_is_said(image):
    with pytest.raises(ValueError, match="an image is"):
        opened(bars(4)).read({"image": image})


@pytest.mark.parametrize("caption", [None, 7, "  "])
def test_what_is_no_caption_is_said(caption):
    with pytest.raises(ValueError, match="caption"):
        opened(bars(4)).read({"caption": caption})


def test_what_does_not_do_is_said():
    with pytest.raises(ValueError, match="width is 0; it must be at least 1"):
        MatchConfig(width=0)


def test_vectors_that_are_no_numbers_find_nothing():
    nothing = torch.full((4, 3), math.nan)
    assert found_at(nothing, torch.randn(4, 3), torch.arange(4)[:, None], at=(1, 2)) == [0, 0]
