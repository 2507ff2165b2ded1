"""Caches that somebody made for the attention before a swap, and those that a swap needs."""

import pytest
import torch
import transformers as hf

import subquad as sq
from pretrained import CAUSAL, close, ids, made
from subquad.hf import swap
from subquad.hf.swapping import Exact, Features, Looks, new_cache

# further back than Mistral's own window of 7 tokens
FAR = {"window": Looks("Window(12)"), "all": Looks("Full()"), "sums": Features("favor", 16)}


def stepped(model, x, cache, first=10):
    """Logits of x, its first tokens at once and the others one by one."""
    parts = [model(x[:, :first], past_key_values=cache).logits]
    for t in range(first, x.shape[1]):
        parts.append(model(x[:, t : t + 1], past_key_values=cache).logits)
    return torch.cat(parts, 1)


@pytest.mark.parametrize("mixer", FAR.values(), ids=FAR)
def test_a_cache_that_drops_keys_is_refused(mixer):
    model = swap(made(CAUSAL, "mistral"), mixer)
    cache = hf.DynamicCache(config=model.config)
    with pytest.raises(ValueError, match="has dropped 4 keys that swapped attention still looks"):
        stepped(model, ids(1, 17), cache)
    cache = hf.DynamicCache(config=model.config)
    with pytest.raises(ValueError, match=r"those of subquad\.hf\.swapping\.new_cache"):
        model.generate(ids(1, 9), max_new_tokens=9, past_key_values=cache, eos_token_id=None)
    # the one that a plain forward makes by itself drops keys too
    kept = model(ids(1, 10), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="has dropped 4 keys"):
        model(ids(1, 1), past_key_values=kept)


@pytest.mark.parametrize(
    "mixer", [Exact(), Looks("Window(4)"), Looks("Window(6)")], ids=["exact", "4", "6"]
)
def test_a_cache_that_drops_what_nobody_looks_at_is_taken(mixer):
    model = swap(made(CAUSAL, "mistral"), mixer)
    x = ids(2, 17)
    close(stepped(model, x, hf.DynamicCache(config=model.config)), model(x).logits)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("mixer", FAR.values(), ids=FAR)
def test_caches_of_all_keys_and_of_our_own_make(name, mixer):
    model = swap(made(CAUSAL, name), mixer)
    x = ids(2, 17)
    wanted = model(x).logits
    close(stepped(model, x, hf.DynamicCache()), wanted)
    close(stepped(model, x, new_cache(model)), wanted)


def test_room_for_tokens_to_come_is_refused():
    model = swap(made(CAUSAL, "llama"), sq.Window(3))
    cache = hf.StaticCache(config=model.config, max_cache_len=32)
    with pytest.raises(ValueError, match="has places for 32 tokens and the last token is number 9"):
        model(ids(1, 9), past_key_values=cache)
