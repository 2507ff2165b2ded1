"""Proteins from a FASTA file: each protein a document, its residues the tokens.

The vocabulary is the 20 amino acids, then the six rarer letters of IUPAC (B Z J: one of two; U O:
the 21st and 22nd; X: any), so that every letter has a token of its own. Small letters count as
capitals, a `*` at the end (translation's stop) is left out, and anything else raises.

Parts: 80/10/10 by a hash of the accession (`P12345` of `>sp|P12345|NAME ...`, else the first word),
so a protein keeps its part when others come.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from subquad.data import sources
from subquad.data.documents import Documents, Kind, by_hash, index, kept, pack
from subquad.data.vocabulary import Symbols

__all__ = ["LETTERS", "Proteins", "open_proteins"]

LETTERS = "ACDEFGHIKLMNPQRSTVWYBZJUOX"
_LINE = 60


@dataclass(frozen=True)
class Proteins(Kind):
    """Residues. Perplexity = exp(nats / residues); the end of a protein is not scored."""

    name, unit, member, metric = "proteins", "residues", "protein", "perplexity"
    words = Symbols("residues", len(LETTERS), LETTERS)

    def measure(self, nats: float, tokens: int, documents: Documents) -> dict[str, float]:
        mean = nats / max(tokens, 1)
        return {
            "perplexity": math.exp(mean),
            "bits_per_residue": mean / math.log(2),
            "residues": tokens,
            "proteins": len(documents),
        }

    def shown(self, made: Sequence[bytes]) -> str:
        """FASTA."""
        lines = []
        for number, ids in enumerate(made, 1):
            letters = self.words.decode(ids).decode()
            lines.append(f">generated_{number}")
            lines += [letters[at : at + _LINE] for at in range(0, len(letters), _LINE)]
        return "\n".join(lines)


def open_proteins(where: Path) -> Documents:
    """The proteins of a FASTA file, packed or not. ValueError with the place of what is none."""

    def fill(folder: Path) -> None:
        names: list[str] = []

        def documents() -> Iterator[Iterator[bytes]]:
            for name, letters in _records(where):
                names.append(name)
                yield iter([_tokens(where, name, letters)])

        ends = pack(folder, documents())
        part = by_hash(names, valid=0.1, test=0.1)
        says = f"{where.name} in parts 80/10/10 by a hash of the accession"
        index(folder, ends, part, says, Proteins.member)

    return kept(sources.key_of([where]), fill, Proteins())


def _records(where: Path) -> Iterator[tuple[str, bytes]]:
    """(accession, letters) of each record."""
    name, lines = None, []
    with sources.unpacked(where) as stream:
        for number, line in enumerate(stream, 1):
            line = line.strip()
            if line[:1] == b">":
                if name is not None:
                    yield name, b"".join(lines)
                name, lines = _accession(line[1:], number), []
            elif line and name is None:
                raise ValueError(
                    f"{where.name} line {number} stands before any header; FASTA begins with '>'"
                )
            else:
                lines.append(line)
    if name is not None:
        yield name, b"".join(lines)


def _accession(header: bytes, number: int) -> str:
    words = header.decode(errors="replace").split()
    first = words[0] if words else f"line {number}"
    fields = first.split("|")
    return fields[1] if len(fields) > 2 else first


_TOKEN = np.full(256, 255, np.uint8)
_TOKEN[np.frombuffer(LETTERS.encode(), np.uint8)] = np.arange(len(LETTERS))
_TOKEN[np.frombuffer(LETTERS.lower().encode(), np.uint8)] = np.arange(len(LETTERS))


def _tokens(where: Path, name: str, letters: bytes) -> bytes:
    letters = letters.removesuffix(b"*")
    ids = _TOKEN[np.frombuffer(letters, np.uint8)]
    if (ids == 255).any():
        place = int((ids == 255).argmax())
        raise ValueError(
            f"{where.name}: {chr(letters[place])!r} at place {place + 1} of {name} is no residue; "
            f"known: {LETTERS}"
        )
    return ids.tobytes()
