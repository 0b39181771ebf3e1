"""What measuring found, kept between runs and carried from one machine to another.

A record only ever picks one of the configurations that ``configs.candidates`` lists for its chip, so that a file of
records from elsewhere can cost speed and nothing else. It is read as text that anybody may have written: sizes are
bounded, and what is unknown, missing or out of range is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from maskc import cache, knobs
from maskc.backends.triton.configs import Config
from maskc.ir.interval import MAX_TOKENS

__all__ = [
    "LONGEST_FILE",
    "Record",
    "Situation",
    "dump_records",
    "known_records",
    "load_records",
    "recall",
    "store",
]

_FOLDER = "tuning"
_FORMAT = 1
LONGEST_FILE = 1 << 22  # bytes
_MOST_RECORDS = 10_000


@dataclass(frozen=True)
class Situation:
    """What a configuration was measured for.

    Attributes:
        pattern: hash of the pattern with its arguments, extents, order of tokens and, where it counts, layer.
        stage: as in ``configs.config``.
        q_len, k_len, rows: lengths, and batch entries times heads, rounded up to a power of two.
        head_dim, value_dim, dtype, group, precision: of the tensors and their products.
        device, target: the device's name, and the chip as in ``cuda:90``.
        triton, maskc: versions.
    """

    pattern: str
    stage: str
    q_len: int
    k_len: int
    rows: int
    head_dim: int
    value_dim: int
    dtype: str
    group: int
    precision: str
    device: str
    target: str
    triton: str
    maskc: str

    @property
    def name(self) -> str:
        """The name of its file."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:40] + ".json"


@dataclass(frozen=True)
class Record:
    """The fastest configuration in a situation, the seconds that it took, and those of the default."""

    situation: Situation
    config: Config
    seconds: float
    default_seconds: float


def recall(situation: Situation) -> Record | None:
    """The record kept for a situation; None if there is none, or it makes no sense. Looked for once a process."""
    return _kept(situation, str(knobs.CACHE_DIR.value()))


@functools.lru_cache(maxsize=1024)
def _kept(situation: Situation, where: str) -> Record | None:
    found = cache.read(_FOLDER, situation.name)
    try:
        record = None if found is None else _record(_parse(found), "the record")
    except ValueError:
        return None
    return record if record is not None and record.situation == situation else None


def store(records: Iterable[Record]) -> int:
    """Keep records in the cache, in place of those for the same situations; how many were kept."""
    kept = sum(cache.write(_FOLDER, r.situation.name, json.dumps(_plain(r)).encode()) for r in records)
    _kept.cache_clear()
    return kept


def known_records() -> tuple[Record, ...]:
    """All records in the cache that make sense, in a fixed order."""
    found = []
    for name in cache.names(_FOLDER):
        content = cache.read(_FOLDER, name)
        try:
            record = None if content is None else _record(_parse(content), name)
        except ValueError:
            continue
        if record is not None and record.situation.name == name:
            found.append(record)
    return tuple(sorted(found, key=lambda r: dataclasses.astuple(r.situation)))


def dump_records(records: Iterable[Record]) -> str:
    """Records as the text of a file."""
    return json.dumps({"maskc_tuning": _FORMAT, "records": [_plain(r) for r in records]}, indent=1) + "\n"


def load_records(content: bytes) -> tuple[Record, ...]:
    """The records in a file. Raises ValueError that says what is wrong with it."""
    if len(content) > LONGEST_FILE:
        raise ValueError(f"the file is longer than {LONGEST_FILE} bytes")
    whole = _fields(_parse(content), {"maskc_tuning", "records"}, "the file")
    if whole["maskc_tuning"] != _FORMAT or isinstance(whole["maskc_tuning"], bool):
        raise ValueError(f"'maskc_tuning' must be {_FORMAT}, the version of such files, not {whole['maskc_tuning']!r}")
    records = whole["records"]
    if not isinstance(records, list) or len(records) > _MOST_RECORDS:
        raise ValueError(f"'records' must be a list of at most {_MOST_RECORDS}")
    return tuple(_record(x, f"record {i}") for i, x in enumerate(records))


def _plain(record: Record) -> dict[str, Any]:
    return dataclasses.asdict(record)


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content.decode(), parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except (UnicodeDecodeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(f"it is no JSON: {error}") from None


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field is given twice")
    return found


def _fields(value: Any, names: Iterable[str], where: str) -> Mapping[str, Any]:
    wanted = set(names)
    if not isinstance(value, dict) or set(value) != wanted:
        found = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise ValueError(f"{where} must have the fields {sorted(wanted)} and no others; found {str(found)[:200]}")
    return value


def _names(of: type) -> list[str]:
    return [f.name for f in dataclasses.fields(of)]


def _record(value: Any, where: str) -> Record:
    given = _fields(value, _names(Record), where)
    situation = _checked(given["situation"], Situation, _SITUATION, where)
    config = _checked(given["config"], Config, _CONFIG, where)
    seconds = [given["seconds"], given["default_seconds"]]
    for s in seconds:
        if type(s) not in (int, float) or not (math.isfinite(s) and 0 < s < 1e6):
            raise ValueError(f"{where}: seconds must be positive, not {str(s)[:50]!r}")
    return Record(Situation(**situation), Config(**config), float(seconds[0]), float(seconds[1]))


def _checked(value: Any, of: type, rules: Mapping[str, range | str], where: str) -> dict[str, Any]:
    given = _fields(value, _names(of), where)
    for name, rule in rules.items():
        found = given[name]
        if isinstance(rule, range):
            fine = type(found) is int and found in rule
        else:
            fine = isinstance(found, str) and re.fullmatch(rule, found) is not None
        if not fine:
            said = f"between {rule[0]} and {rule[-1]}" if isinstance(rule, range) else f"like {rule}"
            raise ValueError(f"{where}: {name!r} must be {said}, not {str(found)[:50]!r}")
    for name in ("q_tile", "k_tile", "warps"):
        if name in given and given[name] & (given[name] - 1):
            raise ValueError(f"{where}: {name!r} must be a power of two, not {given[name]}")
    return dict(given)


_LENGTH = range(1, MAX_TOKENS + 1)
_WORD = r"[ -~]{1,100}"
#: What each field may be: a range of integers, or a regular expression.
_SITUATION: dict[str, range | str] = {
    "pattern": "[0-9a-f]{64}",
    "stage": "forward|decode|dq|dkv|pairs",
    "q_len": _LENGTH,
    "k_len": _LENGTH,
    "rows": range(1, 1 << 31),
    "head_dim": range(1, 257),
    "value_dim": range(1, 257),
    "dtype": "float32|bfloat16|float16",
    "group": range(1, 1 << 16),
    "precision": "ieee|tf32",
    "device": _WORD,
    "target": _WORD,
    "triton": _WORD,
    "maskc": _WORD,
}
_CONFIG: dict[str, range | str] = {
    "q_tile": range(16, 257),
    "k_tile": range(16, 257),
    "warps": range(1, 33),
    "stages": range(1, 9),
}
