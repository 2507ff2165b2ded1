"""Matching: pictures are found by texts, and texts by pictures, in all rows of a part.

A picture and a text become a vector each, by a tower each; what belongs together is near (Radford
et al., 2021, https://arxiv.org/abs/2103.00020). Any pair of `PAIRS` says how: its encoder reads
pictures, its decoder texts, without looking at any memory. A text is a mark, then its tokens."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from subquad.archs import PAIRS, configure, pair_parts
from subquad.data.examples import Examples
from subquad.data.rows import alike
from subquad.hf import SubquadConfig, SubquadForImageTextMatching
from subquad.nn.contrast import alike as alike_texts
from subquad.nn.contrast import contrastive_loss, equal
from subquad.tasks.caption import scenes
from subquad.tasks.encoder import described
from subquad.tasks.given import row_given
from subquad.tasks.looks import Look, patches, picture, spelled
from subquad.tasks.pairs import standing
from subquad.tasks.pictured import PicturedTask
from subquad.tasks.recall import SUMS, measured, searched
from subquad.tasks.rows import Row, rows_of
from subquad.tasks.task import Result, Share
from subquad.tasks.texts import arguments
from subquad.tasks.views import is_picture, pixels_given, read_pictures

__all__ = ["Match", "MatchConfig"]

_SIDE_BY_SIDE = 16_384  # elements in one call of an evaluation
_SAID = "each searched for among all of them; right is any row with its caption or its picture"


@dataclass(frozen=True)
class MatchConfig:
    """Fields of the task `match`.

    Args:
        patch: side of a patch in pixels; it must divide both sides of a picture.
        context: tokens of a text that are read, its mark among them; the rest is cut off.
        width: of the vectors that pictures and texts become.
        tokenizer: 'bytes'; 'bpe:N', learnt from the training part; a tokenizer.json; a hub id.
        dropout: of patches with their positions.
        valid_rows: rows of the validation part that are searched at each report.
        image: the column that names the picture's file; default: the usual names.
        caption: the column that holds the caption; default: the usual names.
    """

    patch: int = 8
    context: int = 64
    width: int = 64
    tokenizer: str = "bpe:400"
    dropout: float = 0.0
    valid_rows: int = 500
    image: str | None = None
    caption: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("patch", 1), ("context", 2), ("width", 1), ("valid_rows", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")


class Match(PicturedTask):
    """The task `match`."""

    name = "match"
    Config = MatchConfig
    default = staticmethod(scenes)
    reads = ("image", "caption")
    archs = PAIRS
    metric = "recall_at_1"
    greater_is_better = True
    model_class: ClassVar[Any] = SubquadForImageTextMatching
    heads = ("vector",)

    # --- data ---------------------------------------------------------------------------------

    def seen(self, row: Row) -> dict[str, Tensor]:
        """What the tower of pictures is given."""
        return {"pixel_values": self.view.seen(row["image"])}

    def said(self, row: Row) -> dict[str, Tensor]:
        """What the tower of texts is given."""
        ids = self.words.encode(row["caption"].encode())[: self.config.context - 1]
        return arguments([self.words.mark, *ids.tolist()], slice(0, 1))

    def inputs(self, row: Row) -> dict[str, Tensor]:
        return self.seen(row) | self.said(row)

    def targets(self, row: Row) -> dict[str, Tensor]:
        return {}

    def sizes(self, rows: Sequence[Row]) -> list[int]:
        return [self.patches + self.config.context] * len(rows)

    # --- model --------------------------------------------------------------------------------

    def parts(self, arch: str, fields: dict[str, Any]) -> dict[str, Any]:
        made = standing(pair_parts(arch, fields), self._stem)
        causal = getattr(configure(made["arch"], made["model"]), "causal", False)
        pool = "last" if causal else "mean"
        head = {"kind": "vector", "width": self.config.width, "pool": pool}
        encoder = {**made["encoder"], "stem": self.patch_stem(1)}
        return {**made, "encoder": encoder, "head": head, **described(self.words)}

    def build(self, arch: str, fields: dict[str, Any]) -> SubquadForImageTextMatching:
        return SubquadForImageTextMatching(SubquadConfig(**self.parts(arch, fields)))

    def loss(self, model: nn.Module, batch: dict[str, Tensor], label_smoothing: float) -> Tensor:
        # each process contrasts the rows of its own batch
        same = alike_texts(batch["input_ids"], batch["attention_mask"].bool())
        same |= equal(batch["pixel_values"])
        logits = model(**batch).logits_per_text
        return contrastive_loss(logits, same, label_smoothing=label_smoothing)

    # --- evaluation ---------------------------------------------------------------------------

    @torch.no_grad()
    def score(
        self,
        model: Any,
        found: Examples,
        part: str,
        most: int | None,
        share: Share,
        report: Callable[[int, int], None] = lambda done, of: None,
    ) -> Result:
        rows = rows_of(found, part, most)
        was = model.training
        model.eval()
        vectors = torch.zeros(len(rows), 2, self.config.width, dtype=torch.float64)
        for number, group in enumerate(alike(self.sizes(rows), _SIDE_BY_SIDE)):
            if share.mine(number):
                vectors[group] = torch.stack(self.answers(model, [rows[i] for i in group]))
                report(len(group), len(rows))
        model.train(was)
        # each row is another process's zeros, so the sum is whole everywhere
        answers = [*share.total(vectors).cpu()]
        numbers = measured(self.counted(answers, rows))
        said = f"{len(rows):,} rows, the {part} part of {found.source}; {_SAID}"
        return Result({**numbers, "rows": len(rows)}, said)

    def answers(self, model: Any, rows: Sequence[Row]) -> list[Tensor]:
        """The vectors of picture and text of each row, (2, width) float64."""
        out = model(**self.batch(model, rows))
        return [*torch.stack((out.image_embeds, out.text_embeds), 1).double().cpu()]

    @property
    def sums(self) -> int:
        return SUMS

    def counted(self, answers: Sequence[Tensor], rows: Sequence[Row]) -> Tensor:
        images, texts = torch.stack([*answers]).unbind(1)
        seen = [hashlib.sha256(bytes(row["image"])).digest() for row in rows]
        return searched(images, texts, [row["caption"] for row in rows], seen)

    def measured(self, counts: Tensor) -> dict[str, float]:
        return measured(counts)

    # --- answers ------------------------------------------------------------------------------

    def read(self, raw: str | Path | dict[str, Any]) -> Row:
        """Pictures of a file, a text, or a row of JSON that holds either or both."""
        if isinstance(raw, Path) or (isinstance(raw, str) and is_picture(raw)):
            found = read_pictures(Path(raw))
            names = [f"{raw}:{i}" if len(found) > 1 else str(raw) for i in range(len(found))]
            return {"images": [*zip(names, found, strict=True)]}
        if isinstance(raw, str):
            return {"caption": raw}
        raw = self.renamed(raw)
        if not any(field in raw for field in self.reads):
            raise ValueError(f"a row wants image or caption; this one has {', '.join(raw)}")
        row = row_given(raw, ("caption",)) if "caption" in raw else {}
        if "image" not in raw:
            return row
        if isinstance(named := raw["image"], str | Path):
            return row | self.read(Path(named))
        return row | {"images": [("a picture", pixels_given(named))]}

    @torch.no_grad()
    def predict_all(self, model: Any, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
        """For each text the pictures, the nearest first, by the cosine of their vectors."""
        given = list(rows)
        named = [one for row in given for one in row.get("images", ())]
        texts = [row["caption"] for row in given if "caption" in row]
        if not named or not texts:
            raise ValueError(
                f"pictures are ranked for texts, and these are {len(named)} pictures and "
                f"{len(texts)} texts; give at least one of each"
            )
        at = next(model.parameters()).device
        pixels = [self.seen({"image": one})["pixel_values"].to(at) for _, one in named]
        images = torch.cat([model.see(one[None]) for one in pixels])
        for text in texts:
            asked = self.collate([self.said({"caption": text})])
            scores = model.read(**{k: t.to(at) for k, t in asked.items()}) @ images.T
            values, order = scores[0].sort(descending=True, stable=True)
            ranked = zip(values.tolist(), order.tolist(), strict=True)
            yield {"text": text, "images": [{"image": named[i][0], "score": s} for s, i in ranked]}

    def predict(self, model: Any, row: Row) -> list[dict[str, Any]]:
        """The same for a row that holds pictures and a text."""
        return [*self.predict_all(model, [row])]

    def look(self, model: Any, raw: Any) -> Look:
        row = self.read(raw)
        if "caption" not in row or "images" not in row:
            raise ValueError("a map of both towers wants a row of JSON with image and caption")
        image = row["images"][0][1]
        given = self.batch(model, [{"image": image, "caption": row["caption"]}])
        before, (height, width, _) = model.model.images.stem.class_tokens, self.view.shape
        seen = picture(self.view.pixels(image), self.patch, before, "patches")
        tokens = spelled(self.words, given["input_ids"][0].tolist())
        names = patches(height, width, self.patch, before)
        return Look(given, {"tokens": tokens, "patches": names}, seen)

    def told(self, answer: dict[str, Any]) -> str:
        lines = (f"  {one['score']:+.3f}  {one['image']}" for one in answer["images"])
        return "\n".join((answer["text"], *lines))
