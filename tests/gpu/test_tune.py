"""The autotuner with a made-up device and clock, its records as files that anybody may have written, and for real
under Triton's interpreter."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from maskc import knobs
from maskc.backends.triton import plans, records, tune
from maskc.backends.triton.configs import Config, Rows, candidates, config, fits, joins, parse_target, shared_memory
from maskc.backends.triton.entry import Entry
from maskc.backends.triton.masks import pair_values
from maskc.backends.triton.records import Record, Situation, dump_records, known_records, load_records, recall, store
from maskc.backends.triton.spec import specialised
from maskc.backends.triton.tiles import kernel_plan
from maskc.backends.triton.tune import best, choose, compare, predicted_cost, situation_of
from maskc.cli.app import run
from maskc.ir.binding import Binding
from maskc.lower import lower_text
from maskc.tiles import make_plan
from maskc.tiles.binding import bind
from tests.gpu.conftest import Interpreter

A, B, C = Config(16, 16, 4, 1), Config(32, 16, 4, 1), Config(16, 32, 4, 1)
SITUATION = Situation(
    pattern="0" * 64,
    stage="forward",
    q_len=1024,
    k_len=1024,
    rows=16,
    head_dim=128,
    value_dim=128,
    dtype="bfloat16",
    group=4,
    precision="ieee",
    device="NVIDIA H100 80GB HBM3",
    target="cuda:90",
    triton="3.7.1",
    maskc="0.1.0",
)
RECORD = Record(SITUATION, Config(128, 64, 8, 3), 0.001, 0.002)


def forget() -> None:
    """As in another process."""
    records._kept.cache_clear()


class Device:
    """A device whose runs take what a table says, and its clock. Compiling takes ``compiling`` seconds."""

    def __init__(self, seconds: dict[Config, list[float] | float], compiling: float = 0.0) -> None:
        self.seconds, self.compiling = seconds, compiling
        self.now = 0.0
        self.compiled: set[Config] = set()
        self.runs: list[Config] = []

    def start(self, chosen: Config) -> None:
        said = self.seconds[chosen]
        if said == float("inf"):
            raise RuntimeError("out of resource: shared memory\nmore about it")
        if chosen not in self.compiled:
            self.compiled.add(chosen)
            self.now += self.compiling
        turn = self.runs.count(chosen)
        self.runs.append(chosen)
        self.now += said[turn % len(said)] if isinstance(said, list) else said

    def seconds_of(self, run: Callable[[], None]) -> float:
        before = self.now
        run()
        return self.now - before

    def clock(self) -> float:
        return self.now

    def compare(self, configs: list[Config], budget: float = 1e9) -> Any:
        return compare(configs, self.start, self.seconds_of, budget=budget, clock=self.clock)


def test_the_fastest_is_taken_if_it_is_clearly_faster() -> None:
    trials = Device({A: 1.0, B: 0.9, C: 0.95}).compare([A, B, C])
    assert [t.seconds for t in trials] == pytest.approx([1.0, 0.9, 0.95])
    assert best(trials).config == B
    assert best(Device({A: 1.0, B: 0.99, C: 1.0}).compare([A, B, C])).config == A


def test_configurations_are_measured_in_turns_and_hopeless_ones_no_more() -> None:
    device = Device({A: 1.0, B: 1.1, C: 5.0})
    trials = device.compare([A, B, C])
    assert device.runs[:6] == [A, A, B, B, C, C]
    assert device.runs[6:] == [A, B, C, *([A, B] * 7)]
    assert [len(t.times) for t in trials] == [9, 9, 2]


def test_one_slow_run_does_not_decide() -> None:
    for turn in range(1, 10):
        device = Device({A: 1.0, B: [30.0 if i == turn else 0.5 for i in range(10)]})
        assert best(device.compare([A, B])).config == B, turn


def test_what_cannot_be_started_is_left_out_but_for_the_default() -> None:
    trials = Device({A: 1.0, B: float("inf"), C: 0.5}).compare([A, B, C])
    assert trials[1].times == ()
    assert trials[1].why == "RuntimeError: out of resource: shared memory"
    assert best(trials).config == C
    with pytest.raises(RuntimeError, match="shared memory"):
        Device({A: float("inf"), B: 1.0}).compare([A, B])


@pytest.mark.parametrize("budget", [0.0, 5.0, 11.0, 12.5, 40.0])
def test_time_is_bounded(budget: float) -> None:
    device = Device({A: 1.0, B: 0.5, C: 0.25}, compiling=3.0)
    trials = device.compare([A, B, C], budget)
    assert trials[0].times  # the default always is
    longest = 3.0 + 1.0 + 1.0  # one more configuration may be compiled and run twice
    assert device.now <= max(budget, 0.0) + longest
    if budget == 0.0:
        assert [t.why for t in trials] == ["", "no time left", "no time left"]
        assert best(trials).config == A
    if budget == 40.0:
        assert best(trials).config == C


def entry(text: str = "causal", autotune: str = "on", n: int = 256, **more: Any) -> Entry:
    program = lower_text(text)[0]
    binding = bind(program, n, n, heads=2, layer=more.pop("layer", 0), batch=1, sizes={}, values={})
    return Entry(program, binding, (), autotune=autotune, **more)


def tensors(n: int = 256) -> list[torch.Tensor]:
    return [torch.zeros(1, 2, n, 32) for _ in range(3)]


def test_what_is_measured_is_stored_and_found_again() -> None:
    device = Device({A: 1.0, B: 0.5, C: 0.7})
    fake: dict[str, Any] = {"timer": device.seconds_of, "clock": device.clock}
    q, k, v = tensors()
    assert choose(entry(autotune="cached"), "forward", q, k, v, device.start, **fake).source == "default"
    assert device.runs == []
    found = choose(entry(), "forward", q, k, v, device.start, **fake)
    assert (found.source, found.config) == ("measured", B)
    assert found.record is not None
    assert (found.record.seconds, found.record.default_seconds) == pytest.approx((0.5, 1.0))
    runs = len(device.runs)
    for mode in ("on", "cached"):
        again = choose(entry(autotune=mode, n=200), "forward", *tensors(200), device.start, **fake)  # same class
        assert (again.source, again.config) == ("stored", B)
    assert choose(entry(autotune="off"), "forward", q, k, v, device.start, **fake).source == "default"
    assert choose(entry(autotune="cached"), "dq", q, k, v, device.start, **fake).source == "default"
    assert choose(entry("window(9)", "cached"), "forward", q, k, v, device.start, **fake).source == "default"
    assert len(device.runs) == runs


def test_a_record_picks_only_what_might_have_been_measured() -> None:
    q, k, v = tensors()
    device = Device({A: 1.0})
    situation = situation_of(entry(), "forward", q, k, v)
    store([Record(situation, Config(256, 256, 32, 8), 1e-9, 1.0)])
    found = choose(entry(autotune="cached"), "forward", q, k, v, device.start)
    assert (found.source, found.config) == ("default", A)


def test_situations() -> None:
    q, k, v = tensors()
    text = "h % 2 == 0 | q - k < 8 * (layer + 1)"
    names = [situation_of(e, "forward", q, k, v).name for e in (entry(text), entry(text, layer=1))]
    assert len(set(names)) == 2  # the mask depends on the layer
    same = [situation_of(e, "forward", q, k, v).name for e in (entry(), entry(layer=1), entry("k <= q"))]
    assert len(set(same)) == 1
    half = [x.half() for x in (q, k, v)]
    assert situation_of(entry(), "forward", *half).name not in (*names, *same)


def test_the_model_prefers_tiles_that_skip_more() -> None:
    narrow = entry("abs(q - k) < 8", n=2048)
    assert predicted_cost(narrow, 32, 32, 4) < predicted_cost(narrow, 256, 256, 4)
    wide = entry("causal", n=2048)
    assert predicted_cost(wide, 128, 128, 4) < predicted_cost(wide, 16, 16, 4)
    # With many processors, the longest row is what one of them must wait for.
    assert predicted_cost(wide, 128, 128, 10_000) == predicted_cost(wide, 128, 128, 100_000)


@pytest.mark.parametrize("target", ["cuda:80", "cuda:90", "cuda:100", "cuda:120", "hip:gfx942"])
@pytest.mark.parametrize("stage", ["forward", "decode", "dq", "dkv"])
def test_candidates_are_few_and_fit(stage: str, target: str) -> None:
    chip = parse_target(target)
    for dim in (16, 64, 128, 256):
        found = candidates(stage, chip, dim, dim, "bfloat16")
        assert found[0] == config(stage, chip, dim, "bfloat16")
        assert len(set(found)) == len(found) <= 9
        for c in found[1:]:
            assert fits(c, stage, chip, dim, dim, 2)
            assert c.stages * min(c.q_tile, c.k_tile) * dim * 2 <= shared_memory(chip)
    assert len(candidates(stage, chip, 64, 64, "bfloat16")) >= 4


def test_files_of_records() -> None:
    other = dataclasses.replace(RECORD, situation=dataclasses.replace(SITUATION, stage="dq"))
    text = dump_records([RECORD, other])
    assert load_records(text.encode()) == (RECORD, other)
    assert store(load_records(text.encode())) == 2
    assert set(known_records()) == {RECORD, other}
    assert recall(SITUATION) == RECORD
    assert recall(dataclasses.replace(SITUATION, device="another")) is None


def changed(path: str, value: Any) -> bytes:
    whole = json.loads(dump_records([RECORD]))
    at = whole
    *way, last = path.split(".")
    for step in way:
        at = at[int(step)] if step.isdigit() else at[step]
    at[int(last) if last.isdigit() else last] = value
    return json.dumps(whole).encode()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "must have the fields"),
        (b'{"maskc_tuning": 1}', "must have the fields"),
        (b'{"maskc_tuning": 1, "maskc_tuning": 1, "records": []}', "given twice"),
        (b'{"maskc_tuning": NaN, "records": []}', "NaN"),
        (changed("maskc_tuning", 2), "must be 1"),
        (changed("maskc_tuning", True), "must be 1"),
        (changed("records", {}), "must be a list"),
        (changed("records", [0] * 10_001), "at most 10000"),
        (changed("records.0", 7), "record 0 must have the fields"),
        (changed("records.0.more", 7), "and no others"),
        (changed("records.0.config.more", 7), "and no others"),
        (changed("records.0.config.q_tile", 48), "power of two"),
        (changed("records.0.config.q_tile", 1 << 40), "'q_tile' must be between 16 and 256"),
        (changed("records.0.config.warps", True), "'warps' must be between"),
        (changed("records.0.config.stages", 0), "'stages' must be between"),
        (changed("records.0.seconds", -1), "seconds must be positive"),
        (changed("records.0.seconds", "1"), "seconds must be positive"),
        (changed("records.0.seconds", float("inf")), "Infinity"),
        (changed("records.0.situation.stage", "sideways"), "'stage' must be like"),
        (changed("records.0.situation.pattern", "../../x"), "'pattern' must be like"),
        (changed("records.0.situation.device", "a\nb"), "'device' must be like"),
        (changed("records.0.situation.device", "x" * 101), "'device' must be like"),
        (changed("records.0.situation.q_len", 10**30), "'q_len' must be between"),
        (changed("records.0.situation.q_len", None), "'q_len' must be between"),
        (b" " * ((1 << 22) + 1), "longer than"),
    ],
)
def test_files_that_make_no_sense_are_refused(content: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        load_records(content)


def test_damaged_and_misplaced_records_are_not_used(tmp_path: Path) -> None:
    store([RECORD])
    folder = knobs.CACHE_DIR.value() / "tuning"
    file = folder / SITUATION.name
    content = file.read_bytes()
    (folder / dataclasses.replace(SITUATION, stage="dq").name).write_bytes(content)  # says it is another one
    forget()
    assert recall(dataclasses.replace(SITUATION, stage="dq")) is None
    assert known_records() == (RECORD,)
    file.write_bytes(content[:-20])
    forget()
    assert recall(SITUATION) is None
    records.cache.write("tuning", SITUATION.name, b'{"situation": 1}')
    forget()
    assert recall(SITUATION) is None
    assert known_records() == ()


def test_knobs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert knobs.AUTOTUNE.value() == "cached"
    assert knobs.AUTOTUNE_SECONDS.value() == 10.0
    monkeypatch.setenv("MASKC_AUTOTUNE", "maybe")
    with pytest.raises(ValueError, match=r"MASKC_AUTOTUNE='maybe'.*off, cached or on"):
        knobs.AUTOTUNE.value()
    for text in ("-1", "nan", "inf", "x"):
        monkeypatch.setenv("MASKC_AUTOTUNE_SECONDS", text)
        with pytest.raises(ValueError, match="MASKC_AUTOTUNE_SECONDS"):
            knobs.AUTOTUNE_SECONDS.value()


def test_kernels_are_measured_and_the_choice_is_used(interpreter: Interpreter) -> None:
    found = interpreter.call("tuned.tune_everything")
    assert found["sources"] == {"forward": "measured", "dq": "measured", "dkv": "measured"}
    assert found["configs"] == found["again"]
    assert found["sources again"] == {"forward": "stored", "dq": "stored", "dkv": "stored"}
    assert max(found["differences"]) < 1e-5
    assert found["device plans"] <= 3  # those of what was not chosen are gone


def test_command(interpreter: Interpreter, tmp_path: Path) -> None:
    file, out = tmp_path / "alibi.mask", tmp_path / "out.json"
    file.write_text("pattern p(slope: float[head]) { attend causal & window(5)\n score s + slope[h] * (k - q) }")
    words = ["tune", str(file), "--q", "40", "--heads", "2", "--dim", "16", "--dtype", "float32", "--seconds", "1"]
    code, printed = interpreter.call("tuned.command", [*words, "--backward", "--json"])
    assert code == 0
    kernels = json.loads(printed)["kernels"]
    assert [(k["kernel"], k["source"]) for k in kernels] == [(s, "measured") for s in ("forward", "dq", "dkv")]
    assert all(k["trials"][0]["seconds"] > 0 for k in kernels)
    code, printed = interpreter.call("tuned.command", [*words, "--backward"])
    assert code == 0
    header, *rows = printed.splitlines()
    assert header.split() == ["kernel", "tile", "warps", "stages", "source", "ms", "default", "ms"]
    assert [(row.split()[0], row.split()[6]) for row in rows] == [(s, "stored") for s in ("forward", "dq", "dkv")]
    code, printed = interpreter.call("tuned.command", [*words, "--again"])
    assert "measured" in printed
    code, printed = interpreter.call("tuned.command", ["tune", "--export", str(out)])
    assert code == 0
    found = load_records(out.read_bytes())
    assert len(found) >= 3
    assert run(["tune", "--import", str(out)]) == 0
    assert known_records() == found
    assert run(["tune", "--list"]) == 0


def test_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "in.json"
    file.write_text("{}")
    assert run(["tune", "--import", str(file)]) == 2
    assert "no file of `maskc tune --export`: the file must have the fields" in capsys.readouterr().err
    assert run(["tune", "--import", str(tmp_path / "none.json")]) == 2
    assert run(["tune"]) == 2
    assert run(["tune", "--list", "--export", "x.json"]) == 2
    assert run(["tune", "--list"]) == 0
    assert "nothing has been measured" in capsys.readouterr().out
    out = str(tmp_path / "out.json")
    assert run(["tune", "--export", out, "--json"]) == run(["tune", "--import", out, "--json"]) == 0
    written, taken = map(json.loads, capsys.readouterr().out.splitlines())
    assert (written, taken) == (
        {"maskc": 1, "results": 0, "file": out},
        {"maskc": 1, "results": 0, "taken_over": 0},
    )
    if not torch.cuda.is_available():
        (tmp_path / "a.mask").write_text("causal")
        assert run(["tune", str(tmp_path / "a.mask")]) == 2
        assert "no GPU here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "length", "stage", "kind"),
    [
        ("causal", 16384, "dq", "long"),
        ("causal", 16384, "dkv", "long"),
        ("causal", 16384, "forward", "long"),
        ("sliding_window(1024)", 131072, "forward", "short"),
        ("sliding_window(1024)", 131072, "dq", "short"),
        ("sliding_window(1024)", 131072, "dkv", "short"),
        ("sinks(4) & causal | sliding_window(1024)", 131072, "dkv", "short"),
        ("causal & hash(q // 64, k // 64) % 2 == 0 & q - k < 3000", 8192, "dq", "short"),
        ("causal & (q - k) % 40 < 30", 8192, "forward", "masked"),
        ("causal & (q - k) % 40 < 30", 8192, "dkv", "masked"),
        ("causal & (q - k) % 8 == 0", 16384, "dkv", "placed"),
        ("causal & (q - k) % 8 == 0", 16384, "dq", "placed"),
    ],
)
def test_tiles_suit_the_rows(text: str, length: int, stage: str, kind: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "target_of", lambda device: parse_target("cuda:90"))
    program = lower_text(text)[0]
    binding = bind(program, length, length, heads=1, layer=0, batch=1, sizes={}, values={})
    q = torch.empty(1, 1, length, 128, device="meta", dtype=torch.bfloat16)
    entry = Entry(program, binding, (), layout="auto" if kind == "placed" else "none")
    found = tune.choose(entry, stage, q, q, q, lambda chosen: None)
    values = pair_values(specialised(program, {}), None)
    assert tune.rows_of(entry, stage, found.config) == kind
    assert found.config == config(stage, parse_target("cuda:90"), 128, "bfloat16", values, kind)
    if (stage, kind) not in (("forward", "long"), ("forward", "short"), ("dq", "short")):
        assert found.config != config(stage, parse_target("cuda:90"), 128, "bfloat16", values)


@pytest.mark.parametrize(
    ("text", "length", "by_keys", "computed", "wanted"),
    [
        ("sliding_window(1024)", 8192, False, False, True),
        ("sliding_window(1024)", 8191, False, False, False),  # its last tile is ragged
        ("causal", 16384, False, False, False),  # rows are long
        ("causal", 16384, True, True, True),
        ("causal", 16384, True, False, False),  # what the mask reads would come late
        ("causal", 16383, True, True, False),
    ],
)
def test_one_loop_is_for_short_rows_of_whole_tiles(
    text: str, length: int, by_keys: bool, computed: bool, wanted: bool
) -> None:
    plan = make_plan(lower_text(text)[0], Binding(length, length), q_tile=64, k_tile=64)
    assert plans._joins(plan, kernel_plan(plan, by_keys=by_keys), computed) is wanted


@pytest.mark.parametrize("w", [[64, 64, 64, 8192], [64, 8192, 8192, 8192]])
def test_rows_are_short_or_long_over_all_heads(w: list[int]) -> None:
    """And not over masks, of which both have the same two."""
    program = lower_text("pattern p(w: int[head]) { attend causal & q - k < w[h] }")[0]
    binding = bind(program, 16384, 16384, heads=4, layer=0, batch=2, sizes={}, values={"w": w})
    entry, short = Entry(program, binding, ()), w.count(64) == 3
    assert plans._joins(entry.plan(64, 64), kernel_plan(entry.plan(64, 64)), False) is short
    assert tune.rows_of(entry, "dq", Config(64, 64, 4, 2)) == ("short" if short else "long")


@pytest.mark.parametrize(
    ("stage", "target", "chosen", "width", "wanted"),
    [
        ("forward", "cuda:90", Config(64, 64, 4, 3), 64, True),
        ("forward", "cuda:90", Config(64, 32, 4, 3), 128, False),
        ("forward", "cuda:100", Config(64, 64, 4, 3), 128, False),
        ("dq", "cuda:90", Config(64, 64, 4, 2), 128, False),
        ("dkv", "cuda:90", Config(64, 64, 4, 2), 128, True),
        ("dkv", "cuda:90", Config(64, 64, 4, 3), 64, False),
        ("dkv", "cuda:90", Config(64, 128, 8, 3), 128, False),
    ],
)
def test_one_loop_is_taken_where_it_was_faster(
    stage: str, target: str, chosen: Config, width: int, wanted: bool
) -> None:
    assert joins(stage, parse_target(target), chosen, width) is wanted


def test_of_a_file_that_is_too_long_no_more_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "records\x1b[31m.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # of zeros, which take no room
    assert run(["tune", "--import", str(path)]) == 2
    shown = capsys.readouterr().err
    assert "the file is longer than 4194304 bytes" in shown
    assert shown.replace("\n", "").isprintable()
