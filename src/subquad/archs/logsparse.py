"""LogSparse: attention to a few neighbours and to steps that double, for forecasts of series.

Li et al., 2019, https://arxiv.org/abs/1907.00235
    y_i = softmax of q_i . k_j over  i - j in 0 .. local, local + 1, local + 2, local + 4, ..  v_j
    q_i, k_i from x_(i - kernel + 1) .. x_i
Time O(N log N) with a kernel's O(N kernel), memory O(N); 1 + log2 N layers join any two positions.
Streams exactly; the state grows with N: all keys, and the last kernel - 1 inputs.
The paper draws two variants and leaves them open. Here the steps are counted from the left edge of
the local window, and with `restart` distances are reduced modulo it, so the same steps repeat in
every stretch of that length: local is O(log N) there, and restart a share of N.
Ours differs: the width is not told; pre-norm; positions come from the stem ("series" gives them 20
wide with the series' own vectors, as in the paper), or inside attention.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from subquad.nn.attention import divide
from subquad.nn.choices import choose, position, stack
from subquad.nn.conv_attention import ConvAttention
from subquad.nn.stacks import Stack
from subquad.ops.pattern import Pattern
from subquad.ops.patterns import Causal, LogSteps

__all__ = ["ONLY_PREDICTS", "PATTERNS", "PRESETS", "Config", "build"]


@dataclass(frozen=True)
class Config:
    """Widths, what is looked at, and how queries and keys come about.

    Args:
        pattern: "steps", or "full" for all that came before (the paper's other arm).
        local: so many neighbours before the token itself that all are seen.
        restart: the steps begin again after so many tokens; none: they double up to the first.
        kernel: taps of the convolutions that make queries and keys; 1 leaves plain attention.
        position: inside attention; "none" leaves it to the stem, as in the paper.
    """

    dim: int = 160
    num_layers: int = 3
    num_heads: int = 8
    ffn_dim: int = 640
    causal: bool = True
    pattern: str = "steps"
    local: int = 8
    restart: int | None = None
    kernel: int = 9
    position: str = "none"
    norm: str = "layer"
    mlp: str = "gelu"
    wiring: str = "pre"
    dropout: float = 0.1


#: there is no form that looks ahead
ONLY_PREDICTS = True

PRESETS = {
    # of hourly electricity and traffic; of their finer versions, with more layers
    "base": Config(),
    "electricity_fine": Config(num_layers=6),
    "traffic_fine": Config(num_layers=10),
    "tiny": Config(dim=32, num_layers=2, num_heads=4, ffn_dim=64, local=2, kernel=3, dropout=0.0),
}


def build(config: Config) -> Stack:
    """The features-to-features stack of this configuration. ValueError if not causal."""
    c = config
    if not c.causal:
        raise ValueError(
            "logsparse only predicts: causal=False does not go with steps into the past; take the "
            "architecture local or bigbird"
        )
    pattern = choose("pattern", c.pattern, PATTERNS)(c)
    mixers = [
        ConvAttention(
            c.dim,
            c.num_heads,
            pattern,
            kernel=c.kernel,
            position=position(c.position, c.num_heads, divide(c.dim, c.num_heads)),
            dropout=c.dropout,
        )
        for _ in range(c.num_layers)
    ]
    return stack(
        mixers,
        c.dim,
        c.ffn_dim,
        causal=True,
        norm=c.norm,
        mlp=c.mlp,
        wiring=c.wiring,
        dropout=c.dropout,
    )


#: what is looked at, by its name in a configuration
PATTERNS: Mapping[str, Callable[[Config], Pattern]] = {
    "steps": lambda c: LogSteps(c.local, c.restart),
    "full": lambda c: Causal(),
}
