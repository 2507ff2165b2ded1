"""The loop: exact resumption, whole checkpoints, budgets, what is written down."""

import dataclasses
import errno
import json
import math
import resource
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

import subquad
from catalog import CAUSAL
from subquad.archs import ARCHS
from subquad.tasks.lm import LanguageModel, LanguageModelConfig
from subquad.train import atomic
from subquad.train.checkpoint import check_whole, newest_checkpoint, write_sums
from subquad.train.config import TrainConfig
from subquad.train.fit import fit
from subquad.train.folder import read_facts
from subquad.train.pace import Pace
from subquad.train.records import Metrics

# accelerate and tensorboard warn about themselves
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TEXT = b"".join(b"%d times %d is %d.\n" % (i, j, i * j) for i in range(40) for j in range(40))
LITTLE = TrainConfig(steps=6, batch=2, reports=2, log_every=2, lr=1e-2)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "tables.txt"
    path.write_bytes(TEXT)
    return str(path)


def fields(arch: str, **changed) -> dict:
    return dataclasses.asdict(dataclasses.replace(ARCHS[arch].PRESETS["tiny"], **changed))


def task(**given) -> LanguageModel:
    return LanguageModel(LanguageModelConfig(context=32, valid_bytes=500, **given))


def train(folder: Path, data: str, config: TrainConfig = LITTLE, arch="local", **more) -> dict:
    model = more.pop("model", None) or fields(arch)
    return fit(more.pop("task", None) or task(), arch, model, config, folder, data=data, **more)


class Interrupt(TrainerCallback):
    """As Ctrl-C does at a step."""

    def __init__(self, step: int, *signals: signal.Signals) -> None:
        self.step, self.signals = step, signals or (signal.SIGINT,)

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            for number in self.signals:
                signal.raise_signal(number)


@pytest.fixture
def python_ctrl_c():
    """Ctrl-C does what it does to a program; a worker of pytest-xdist ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# --- a run --------------------------------------------------------------------------------------


def test_a_run_folder_holds_what_it_should(tmp_path, data):
    facts = train(tmp_path / "run", data, command="subquad train lm", config_text="train: {}\n")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"),
        *("tokenizer_config.json", "run.json", "config.yaml", "metrics.jsonl", "README.md"),
        *("events", "checkpoint-6"),
    }
    assert not list((tmp_path / "run").rglob("training_args.bin"))  # a pickle
    assert next((tmp_path / "run" / "events").iterdir()).stat().st_size > 500
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert written == {"format_version": 1, **json.loads(json.dumps(facts))}
    assert written["numbers"]["bits_per_byte"] < 8
    assert written["tokens"] == 6 * 2 * 32
    card = (tmp_path / "run" / "README.md").read_text()
    told = ("bits per byte", written["protocol"], "subquad train lm", "window", "arxiv.org/abs/")
    for part in told:
        assert part in card


def test_metrics_have_loss_rate_and_score(tmp_path, data):
    train(tmp_path / "run", data)
    logged = rows(tmp_path / "run")
    assert [row["step"] for row in logged if "loss" in row] == [2, 3, 4, 6]
    assert [row["step"] for row in logged if "eval_bits_per_byte" in row] == [3, 6]
    for row in logged:
        assert row["tokens"] == row["step"] * 64
        assert ("tokens_per_second" in row) == ("loss" in row)


def test_it_learns(tmp_path, data):
    config = TrainConfig(steps=60, batch=8, reports=1, lr=1e-2)
    assert train(tmp_path / "run", data, config)["numbers"]["bits_per_byte"] < 4.5


@pytest.mark.slow
@pytest.mark.parametrize("arch", CAUSAL)
def test_every_architecture_trains(tmp_path, data, arch):
    config = TrainConfig(steps=40, batch=4, reports=1, lr=1e-2)
    facts = train(tmp_path / "run", data, config, arch=arch)
    assert facts["numbers"]["bits_per_byte"] < 6
    run = subquad.load(tmp_path / "run")
    assert math.isfinite(run.predict("3 times 4 is ")["bits_per_byte"])


def test_the_best_weights_are_kept_not_the_last(tmp_path, data):
    class Spoil(TrainerCallback):
        def on_evaluate(self, args, state, control, model=None, **kwargs):
            with torch.no_grad():
                model.model.stem.embedding.weight.mul_(50)

    facts = train(tmp_path / "run", data, callbacks=(Spoil(),))
    assert facts["best_step"] == 3
    best = load_file(tmp_path / "run" / "model.safetensors")
    last = load_file(tmp_path / "run" / "checkpoint-6" / "model.safetensors")
    assert any(not torch.equal(best[name], last[name]) for name in best)
    assert facts["numbers"]["bits_per_byte"] == rows(tmp_path / "run")[2]["eval_bits_per_byte"]


def test_features_are_told_of_each_step_and_penalties_are_added(tmp_path, data, monkeypatch):
    steps = []
    monkeypatch.setattr(nn.LayerNorm, "after_step", lambda self, s: steps.append(s), raising=False)
    plain = train(tmp_path / "plain", data)
    assert sorted({*steps}) == [1, 2, 3, 4, 5, 6]

    def penalty(self):
        return 1000 * (self.weight - 1).square().sum() if self.weight.shape == (32,) else 0.0

    monkeypatch.setattr(nn.LayerNorm, "penalty", penalty, raising=False)
    train(tmp_path / "held", data)

    def moved(name):
        weights = load_file(tmp_path / name / "checkpoint-6" / "model.safetensors")
        return float((weights["model.backbone.norm.weight"] - 1).abs().max())

    assert moved("held") < moved("plain")
    assert plain["steps"] == 6


# --- resuming -----------------------------------------------------------------------------------


def assert_same(one: Path, two: Path) -> None:
    for name in ("model.safetensors", f"{newest_checkpoint(one).name}/model.safetensors"):
        first, second = load_file(one / name), load_file(two / name)
        assert first.keys() == second.keys()
        for key in first:
            assert torch.equal(first[key], second[key]), key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "changed"),
    [
        ("transformer", {"dropout": 0.2}),
        ("performer", {"redraw": 2}),
        ("performer", {"redraw": 3}),
        ("longformer", {}),
    ],
)
def test_resuming_is_exact_to_the_bit(tmp_path, data, arch, changed):
    config = dataclasses.replace(LITTLE, steps=8, accumulate=2)
    how = {"arch": arch, "model": fields(arch, **changed)}
    whole = train(tmp_path / "whole", data, config, **how)
    part = train(tmp_path / "parts", data, config, callbacks=(Interrupt(4),), **how)
    assert part["stopped_by"] == "SIGINT"
    assert newest_checkpoint(tmp_path / "parts").name == "checkpoint-4"
    rest = train(tmp_path / "parts", data, config, resume=True, **how)
    assert rest["stopped_by"] is None
    assert_same(tmp_path / "whole", tmp_path / "parts")
    assert whole["numbers"] == rest["numbers"]
    assert [r["step"] for r in rows(tmp_path / "parts") if "eval_bits_per_byte" in r] == [4, 8]


def test_more_steps_than_planned(tmp_path, data):
    config = dataclasses.replace(LITTLE, schedule="constant")
    train(tmp_path / "whole", data, dataclasses.replace(config, steps=12))
    train(tmp_path / "parts", data, config)
    train(tmp_path / "parts", data, dataclasses.replace(config, steps=12), resume=True)
    one, two = (
        load_file(tmp_path / n / "checkpoint-12/model.safetensors") for n in ("whole", "parts")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_learnt_vocabulary_is_not_learnt_again(tmp_path, data):
    first = task(tokenizer="bpe:280")
    train(tmp_path / "run", data, task=first)
    before = (tmp_path / "run" / "tokenizer.json").read_text()
    second = task(tokenizer="bpe:280")
    config = dataclasses.replace(LITTLE, steps=8)
    train(tmp_path / "run", data, config, task=second, resume=True)
    assert (tmp_path / "run" / "tokenizer.json").read_text() == before


def test_another_run_is_not_gone_on_with(tmp_path, data):
    train(tmp_path / "run", data)
    with pytest.raises(ValueError, match="not empty; continue its run with --resume"):
        train(tmp_path / "run", data)
    with pytest.raises(ValueError, match="begun with arch local, not transformer"):
        train(tmp_path / "run", data, arch="transformer", resume=True)
    with pytest.raises(ValueError, match=r"begun with --arch\.window 8, not 4"):
        train(tmp_path / "run", data, model=fields("local", window=4), resume=True)
    with pytest.raises(ValueError, match=r"begun with --task\.position auto, not none"):
        train(tmp_path / "run", data, task=task(position="none"), resume=True)
    Path(data).write_bytes(TEXT + b"more")
    with pytest.raises(ValueError, match=r"tables.txt.* is not what .*run was begun with: it is"):
        train(tmp_path / "run", data, resume=True)
    other = tmp_path / "other.txt"
    other.write_bytes(TEXT)
    with pytest.raises(ValueError, match=r"^other.txt.* was begun with, tables.txt"):
        train(tmp_path / "run", str(other), resume=True)
    with pytest.raises(ValueError, match="no run folder"):
        train(tmp_path / "none", data, resume=True)


# --- a full disk --------------------------------------------------------------------------------


def fill_disk(monkeypatch: pytest.MonkeyPatch, name: str, after: int) -> None:
    """The disk is full when a model is saved for the `after`-th time."""
    from subquad.hf import SubquadForCausalLM

    real, calls = SubquadForCausalLM.save_pretrained, []

    def save(self, folder, *args, **kwargs):
        calls.append(1)
        if name in str(folder) and len(calls) > after:
            Path(folder).mkdir(exist_ok=True)
            (Path(folder) / "model.safetensors").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, folder, *args, **kwargs)

    monkeypatch.setattr(SubquadForCausalLM, "save_pretrained", save)


@pytest.mark.parametrize("name", ["checkpoint", "best weights"])
def test_a_full_disk_loses_nothing(tmp_path, data, monkeypatch, name):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        fill_disk(patch, name, after=2)
        with pytest.raises(OSError, match=r"could not write .*No space left.* is untouched"):
            train(run, data)
    assert newest_checkpoint(run).name == "checkpoint-3"
    assert not list(run.glob(".*"))  # no halves
    subquad.load(run)
    train(tmp_path / "whole", data)
    train(run, data, resume=True)
    assert_same(tmp_path / "whole", run)


def test_whole_or_not_at_all(tmp_path, monkeypatch):
    atomic.write_text(tmp_path / "a", "old")

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "_sync", full)
    with pytest.raises(OSError, match="could not write a to"):
        atomic.write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    with (
        pytest.raises(OSError, match="could not write things"),
        atomic.write_files(tmp_path, "things") as part,
    ):
        (part / "a").write_text("new")
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@contextmanager
def files_end_at(size: int):
    """As on a full disk, no file grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_when_a_run_goes_on_leaves_its_tokenizer(tmp_path, data, monkeypatch):
    """It was written in place once, and cut."""
    run, config = tmp_path / "run", dataclasses.replace(LITTLE, steps=8)
    train(run, data, task=task(tokenizer="bpe:280"))
    before = (run / "tokenizer.json").read_bytes()
    real = LanguageModel.save

    def save(self, folder: Path) -> dict:
        with files_end_at(len(before) // 2):
            return real(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "save", save)
        with pytest.raises(OSError, match=r"^could not write settings to .*run: .*File too large"):
            train(run, data, config, task=task(tokenizer="bpe:280"), resume=True)
    assert (run / "tokenizer.json").read_bytes() == before
    assert not list(run.glob(".*"))
    assert train(run, data, config, task=task(tokenizer="bpe:280"), resume=True)["steps"] == 8


def test_a_disk_that_is_full_when_a_run_goes_on_leaves_its_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    before = "".join(json.dumps({"step": step}) + "\n" for step in range(1, 500))
    path.write_text(before)
    began = Metrics(path, Pace(LITTLE), 1).on_train_begin
    state = SimpleNamespace(global_step=400, is_world_process_zero=True)
    with files_end_at(1000), pytest.raises(OSError, match=r"could not write metrics.jsonl to"):
        began(None, state, None)
    assert path.read_text() == before
    began(None, state, None)
    assert rows(tmp_path)[-1] == {"step": 400}


def test_a_mistake_is_no_full_disk(tmp_path):
    with pytest.raises(KeyError), atomic.reporting("things", tmp_path):
        {}["a"]
    with pytest.raises(OSError, match=r"could not write things to .*: why; what"):  # noqa: SIM117
        with atomic.reporting("things", tmp_path):
            raise Exception("why\nand where")  # as tokenizers does


# --- budgets and numbers ------------------------------------------------------------------------


def test_training_stops_by_the_clock_and_the_rate_follows_it(tmp_path, data):
    config = TrainConfig(minutes=0.02, batch=2, reports=2, log_every=1, lr=1e-2)
    facts = train(tmp_path / "run", data, config)
    assert 1.15 < facts["seconds"] < 12
    rates = [row["learning_rate"] for row in rows(tmp_path / "run") if "loss" in row]
    assert max(rates) <= 1e-2
    assert rates[-1] < 0.1 * max(rates)


def test_the_clock_goes_on_where_it_stopped():
    pace = Pace(TrainConfig(minutes=1.0))
    pace.elapsed_before = 30.0
    assert 0.5 <= pace._measure(0) < 0.6


def test_a_loss_that_is_no_number_stops_with_a_reason(tmp_path, data):
    config = dataclasses.replace(LITTLE, lr=1e30, clip=0.0, schedule="constant", warmup=0.0)
    with pytest.raises(ValueError, match=r"the loss is nan at step 2 with learning rate 1e\+30; "):
        train(tmp_path / "run", data, config)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch": 0}, "train.batch is 0"),
        ({"minutes": -1.0}, "train.minutes is -1"),
        ({"warmup": 1.5}, "train.warmup is 1.5"),
    ],
)
def test_impossible_numbers_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**given)


def test_too_little_text_is_named(tmp_path):
    path = tmp_path / "short.txt"
    path.write_bytes(b"x" * 30)
    with pytest.raises(ValueError, match="training part has 28 tokens and one window needs 33"):
        train(tmp_path / "run", str(path))
    assert not (tmp_path / "run").exists()


def test_label_smoothing_bf16_and_recomputation_run(tmp_path, data):
    config = dataclasses.replace(LITTLE, label_smoothing=0.1, bf16=True, recompute=True)
    facts = train(tmp_path / "run", data, config)
    assert facts["numbers"]["bits_per_byte"] < 8.5
    shutil.rmtree(tmp_path / "run")


def test_a_second_sigterm_is_the_first_and_a_second_ctrl_c_is_not(tmp_path, data, python_ctrl_c):
    """Schedulers send SIGTERM to all, and launchers pass theirs on; people lose patience."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    twice = Interrupt(3, signal.SIGTERM, signal.SIGTERM)
    facts = train(tmp_path / "run", data, callbacks=(twice,))
    assert (facts["stopped_by"], facts["steps"]) == ("SIGTERM", 3)
    assert newest_checkpoint(tmp_path / "run").name == "checkpoint-3"
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "other", data, callbacks=(Interrupt(3, signal.SIGINT, signal.SIGINT),))
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


# --- damage -------------------------------------------------------------------------------------


def test_a_score_that_is_no_number_stops_before_anything_is_written(tmp_path, data, monkeypatch):
    real = LanguageModel.validate

    def validate(self, *given):
        result = real(self, *given)
        if len(rows(tmp_path / "run")) > 3:
            return dataclasses.replace(
                result, numbers={**result.numbers, "bits_per_byte": math.nan}
            )
        return result

    monkeypatch.setattr(LanguageModel, "validate", validate)
    with pytest.raises(ValueError, match=r"scores bits_per_byte nan at step 6: .*--train.lr"):
        train(tmp_path / "run", data)
    assert newest_checkpoint(tmp_path / "run").name == "checkpoint-3"
    assert all(math.isfinite(r.get("eval_bits_per_byte", 0)) for r in rows(tmp_path / "run"))


def test_events_that_cannot_be_written_say_so(tmp_path, data, monkeypatch):
    from torch.utils.tensorboard import SummaryWriter

    def full(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "flush", full)
    with pytest.raises(
        OSError, match=r"could not write events to .*run: .* No space left on device"
    ):
        train(tmp_path / "run", data)


class Killed(TrainerCallback):
    """As kill -9 does at a step: nothing is written afterwards."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("step", [1, 5])
def test_a_run_that_was_killed_goes_on(tmp_path, data, step):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", data, callbacks=(Killed(step),))
    train(tmp_path / "run", data, resume=True)
    train(tmp_path / "whole", data)
    assert_same(tmp_path / "whole", tmp_path / "run")


def test_a_run_killed_while_its_folder_is_made_begins_anew(tmp_path, data, monkeypatch):
    """Whatever was reached before the first files all stand there, the same command works."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("subquad.train.fit.Events", lambda folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(run, data)
    read_facts(run)  # the run can be gone on with before anything else
    shutil.rmtree(run)
    (run / ".start.part").mkdir(parents=True)
    (run / "config.yaml").touch()
    with pytest.raises(ValueError, match=r"holds no run: .* cut off; train it again without"):
        train(run, data, resume=True)
    train(run, data)
    assert not list(run.glob(".*"))


def test_a_finished_run_that_is_resumed_stays_as_it_was(tmp_path, data):
    train(tmp_path / "run", data, command="subquad train lm --out run")
    before = (tmp_path / "run" / "run.json").read_bytes(), (tmp_path / "run/README.md").read_bytes()
    facts = train(tmp_path / "run", data, command="subquad train lm --resume", resume=True)
    assert facts["protocol"]
    assert facts["numbers"]
    after = (tmp_path / "run" / "run.json").read_bytes(), (tmp_path / "run/README.md").read_bytes()
    assert before == after


def test_facts_of_a_run_in_two_parts(tmp_path, data):
    first, again = "subquad train lm --out run", "subquad train lm --out run --resume"
    part = train(tmp_path / "run", data, callbacks=(Interrupt(4),), command=first)
    # stopped at step 4, after the report at step 3; stopped again before the next
    rest = train(tmp_path / "run", data, callbacks=(Interrupt(5),), command=again, resume=True)
    assert (part["steps"], rest["steps"]) == (4, 5)
    assert rest["command"] == first
    assert rest["protocol"] == part["protocol"] != ""
    config = dataclasses.replace(LITTLE, steps=7)
    rest = train(tmp_path / "run", data, config, command=f"{again} --train.steps 7", resume=True)
    assert rest["command"] == f"{first} && {again} --train.steps 7"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a run of six steps, its cache and its data."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tables.txt").write_bytes(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUBQUAD_CACHE", str(folder / "cache"))
        train(folder / "run", str(folder / "tables.txt"))
    return folder


def go_on(finished: Path, folder: Path, change) -> None:
    """Resume a copy of the run for two more steps, after a change to it."""
    shutil.copytree(finished / "run", folder / "run")
    change(folder / "run")
    more = dataclasses.replace(LITTLE, steps=8)
    train(folder / "run", str(finished / "tables.txt"), more, resume=True)


STATE = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "clock.json")


@pytest.mark.parametrize("name", [*STATE, "model.safetensors"])
def test_a_checkpoint_that_lacks_a_file_is_not_gone_on_from(finished, tmp_path, name):
    def remove(run: Path) -> None:
        (run / "checkpoint-6" / name).unlink()

    with pytest.raises(
        ValueError, match=rf"checkpoint-6 .*has no {name}|checkpoint-6 has no {name}"
    ):
        go_on(finished, tmp_path, remove)


@pytest.mark.parametrize("keep", [0, 100])
@pytest.mark.parametrize("name", [*STATE, "model.safetensors"])
def test_a_checkpoint_with_a_cut_file_is_damaged(finished, tmp_path, name, keep):
    def cut(run: Path) -> None:
        (run / "checkpoint-6" / "sums.json").unlink()  # as of older versions
        path = run / "checkpoint-6" / name
        path.write_bytes(path.read_bytes()[: min(keep, path.stat().st_size // 2)])

    with pytest.raises(ValueError, match=rf"checkpoint-6.*{name}.* is damaged"):
        go_on(finished, tmp_path, cut)


@pytest.mark.parametrize("name", [*STATE, "model.safetensors", "config.json"])
def test_a_bit_that_changed_on_the_disk_is_noticed(finished, tmp_path, name):
    def flip(run: Path) -> None:
        path = run / "checkpoint-6" / name
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)

    with pytest.raises(ValueError, match=rf"checkpoint-6/{name} is damaged: "):
        go_on(finished, tmp_path, flip)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1]", '{"optimizer.pt": 5}'])
def test_sums_of_a_checkpoint_may_be_damaged_too(finished, tmp_path, text):
    def write(run: Path) -> None:
        (run / "checkpoint-6" / "sums.json").write_text(text)

    with pytest.raises(ValueError, match=r"checkpoint-6/\S+ is damaged: "):
        go_on(finished, tmp_path, write)


def test_a_checkpoint_of_an_older_version_has_no_sums(finished, tmp_path):
    go_on(finished, tmp_path, lambda run: (run / "checkpoint-6" / "sums.json").unlink())
    assert read_facts(tmp_path / "run")["steps"] == 8


def test_each_process_looks_at_its_own_files_and_at_those_of_all(tmp_path):
    for name in ("optimizer.pt", "scheduler.pt", "model.safetensors", "rng_state_0.pth"):
        (tmp_path / name).write_bytes(b"state")
    for name in ("rng_state_1.pth", "memory-1.safetensors"):
        (tmp_path / name).write_bytes(b"state")
    for name in ("trainer_state.json", "clock.json"):
        (tmp_path / name).write_text("{}")
    write_sums(tmp_path)
    for process in (0, 1):
        check_whole(tmp_path, process, 2)
    (tmp_path / "memory-1.safetensors").write_bytes(b"statf")
    check_whole(tmp_path, 0, 2)
    with pytest.raises(ValueError, match=r"memory-1.safetensors is damaged: it does not hold what"):
        check_whole(tmp_path, 1, 2)


@pytest.mark.parametrize("text", ["[]", "{}", '{"elapsed": "x"}', '{"elapsed": null}'])
def test_a_clock_that_tells_nothing_is_damaged(finished, tmp_path, text):
    def write(run: Path) -> None:
        (run / "checkpoint-6" / "clock.json").write_text(text)
        write_sums(run / "checkpoint-6")

    with pytest.raises(ValueError, match=r"clock.json is damaged"):
        go_on(finished, tmp_path, write)


def test_a_run_without_its_checkpoint_is_not_begun_again(finished, tmp_path):
    with pytest.raises(ValueError, match="has 6 steps, and there is no checkpoint"):
        go_on(finished, tmp_path, lambda run: shutil.rmtree(run / "checkpoint-6"))


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("data",), None, "KeyError: 'data'"),
        (("data",), [], r"data is \[\], which is no dict"),
        (("data", "key"), None, "KeyError: 'data.key'"),
        (("data", "source"), 5, "data.source is 5, which is no str"),
        (("model",), "x", "model is 'x', which is no dict"),
        (("parameters",), "x", "parameters is 'x', which is no int"),
        (("numbers",), None, "KeyError: 'numbers'"),
        (("numbers", "bits_per_byte"), "x", "numbers.bits_per_byte is 'x'"),
        (("task_facts",), None, "KeyError: 'task_facts'"),
        (("task_facts", "config"), 5, "task_facts.config is 5"),
        (("task",), [], r"task is \[\], which is no str"),
        (("seconds",), "x", "seconds is 'x', which is no int or float"),
    ],
)
def test_a_run_json_with_parts_missing_or_of_another_type_is_damaged(
    finished, tmp_path, where, value, message
):
    facts = inner = json.loads((finished / "run" / "run.json").read_text())
    for name in where[:-1]:
        inner = inner[name]
    inner.pop(where[-1])
    if value is not None:
        inner[where[-1]] = value
    (tmp_path / "run.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=rf"run.json is damaged: .*{message}"):
        read_facts(tmp_path)
