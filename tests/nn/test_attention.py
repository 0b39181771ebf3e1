"""The module: what it computes, how it is shown, copied, stored and configured, and that it can be distributed."""

from __future__ import annotations

import copy
import io
import json
import pickle
from typing import Any

import pytest

import maskc
from maskc.diagnostics import MaskcError

torch = pytest.importorskip("torch", reason="needs torch")

from maskc.nn import Attention  # noqa: E402

SINKS = """
pattern streaming(doc: int[token], sink_logit: float[head], window: int(1..) = 3) {
    attend sliding_window(window) & same(doc)
    normalize softmax(sink = sink_logit[h])
}
"""
DOC = torch.tensor([0] * 5 + [1] * 7)


def x() -> Any:
    return torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(1))


def module(**changes: Any) -> Attention:
    torch.manual_seed(0)
    made = Attention(16, 4, SINKS, **{"kv_heads": 2, "learned": ["sink_logit"], **changes})
    with torch.no_grad():
        made.learned["sink_logit"].copy_(torch.tensor([0.0, 1.0, -1.0, 2.0]))
    return made


def test_it_is_attention_between_projections() -> None:
    made = module()
    q = made.q_proj(x()).view(2, 12, 4, 4).transpose(1, 2)
    k, v = (p(x()).view(2, 12, 2, 4).transpose(1, 2).repeat_interleave(2, 1) for p in (made.k_proj, made.v_proj))
    keep = torch.from_numpy(maskc.dense_mask(SINKS, 12, 12, heads=4, doc=DOC.numpy()))
    scores = (q @ k.transpose(-1, -2) / 2).masked_fill(~keep, -torch.inf)
    sink = made.learned["sink_logit"][None, :, None, None].expand(2, 4, 12, 1)
    weights = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
    expected = made.out_proj((weights @ v).transpose(1, 2).reshape(2, 12, 16))
    torch.testing.assert_close(made(x(), doc=DOC), expected, atol=1e-5, rtol=1e-5)


def test_every_parameter_gets_a_gradient() -> None:
    made = module()
    made(x(), doc=DOC).square().sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        # A bias of the keys changes no softmax; with a sink it does.
        assert parameter.grad.abs().max() > 1e-6, name


def test_cross_attention_has_another_sequence() -> None:
    made = Attention(16, 4, "pattern p(length: int[batch]) over text -> image { attend padding(length[b]) }")
    image = torch.randn(2, 5, 16)
    out = made(x(), image, length=torch.tensor([5, 2]))
    changed = image.clone()
    changed[1, 2:] = 7.0
    torch.testing.assert_close(made(x(), changed, length=torch.tensor([5, 2])), out)


def test_it_shows_its_pattern() -> None:
    shown = repr(module(arguments={"window": 2}))
    assert "num_heads=4, kv_heads=2, pattern=<pattern streaming(window=2)>" in shown
    assert "attend" in shown


def test_it_shows_the_statements_whatever_braces_stand_before_them() -> None:
    text = "## {Odd}.\npattern p(mode: {full, sparse} = full) { attend match mode { full: causal; sparse: sinks(4) } }"
    assert "\n  attend match mode == full { true: k <= q; else: k < 4 }\n" in repr(Attention(16, 4, text))
    many = "pattern p { attend " + " | ".join(f"q == 3 * k + {i}" for i in range(100)) + " }"
    assert len(repr(Attention(16, 4, many)).split("attend")[1]) < 1500


def test_a_spec_that_is_nested_deeply_is_refused() -> None:
    nested: Any = 1
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(MaskcError) as raised:
        Attention(16, 4, {"maskc": 1, "pattern": "pattern p(n: int) { attend window(n) }", "args": {"n": nested}})
    assert raised.value.codes == ("E601",)
    while isinstance(nested, list):  # Freed level by level, as it was made.
        (nested,) = nested


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle", "torch"])
def test_copies_compute_the_same(how: str) -> None:
    made = module(arguments={"window": 2})
    if how == "torch":
        file = io.BytesIO()
        torch.save(made, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
    else:
        ways = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m))}
        again = ways[how](made)
    assert again.pattern == made.pattern
    assert torch.equal(again(x(), doc=DOC), made(x(), doc=DOC))


def test_the_state_dict_carries_the_spec() -> None:
    made = module(arguments={"window": 2})
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    spec = bytes(state["_extra_state"]).decode()
    assert maskc.from_spec(spec) == made.pattern
    again = Attention(16, 4, json.loads(spec), kv_heads=2, learned=["sink_logit"])
    again.load_state_dict({**state, "_extra_state": spec})  # as the first releases wrote it
    again.load_state_dict(state)
    assert torch.equal(again(x(), doc=DOC), made(x(), doc=DOC))
    with pytest.raises(maskc.MaskcError) as raised:
        module(arguments={"window": 5}).load_state_dict(state)
    assert raised.value.codes == ("E603",)
    assert "window=2" in str(raised.value)


def test_the_state_dict_fits_into_safetensors(tmp_path: Any) -> None:
    """Their files hold tensors alone."""
    from safetensors.torch import load_model, save_model

    made, path = module(arguments={"window": 2}), tmp_path / "module.safetensors"
    save_model(made, path)
    again = module(arguments={"window": 2})
    load_model(again, path)
    assert torch.equal(again(x(), doc=DOC), made(x(), doc=DOC))
    with pytest.raises(maskc.MaskcError) as raised:
        load_model(module(arguments={"window": 5}), path)
    assert raised.value.codes == ("E603",)


@pytest.mark.parametrize(
    "state",
    [7, None, torch.zeros(3), torch.zeros(2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.uint8, device="meta"),
     torch.full((9,), 255, dtype=torch.uint8), torch.tensor(0, dtype=torch.uint8).expand(1 << 40)],
    ids=["number", "none", "floats", "table", "meta", "no text", "huge"],
)  # fmt: skip
def test_an_extra_state_that_is_no_spec_is_refused(state: Any) -> None:
    with pytest.raises(maskc.MaskcError) as raised:
        module().set_extra_state(state)
    assert raised.value.codes == ("E601",)


class Foreign(dict):  # type: ignore[type-arg]
    """A mapping as configuration libraries have them."""


@pytest.mark.parametrize("form", ["json", "yaml", "foreign"])
def test_configuration_as_plain_data(form: str) -> None:
    pattern = maskc.parse("pattern p(width: int[head], n: int = 2) { attend sliding_window(width[h]) | sinks(n) }")
    spec = dict(pattern.with_args(width=[1, 2, 3, 4], n=1).spec())
    config = {"_target_": "maskc.nn.Attention", "embed_dim": 16, "num_heads": 4, "pattern": spec, "bias": False}
    if form == "json":
        config = json.loads(json.dumps(config))
    elif form == "yaml":
        yaml = pytest.importorskip("yaml", reason="needs PyYAML")
        config = yaml.safe_load(yaml.safe_dump(json.loads(json.dumps(config))))
    else:
        config = Foreign({**config, "pattern": Foreign({**spec, "args": Foreign(width=(1, 2, 3, 4), n=1)})})
    made = Attention.from_config(config)
    assert made.pattern.spec()["hash"] == spec["hash"]
    assert made.q_proj.bias is None
    assert Attention.from_config(config, num_heads=4, layer=3).op.layer == 3
    assert Attention.from_config(config, budget=10**9).op.budget == 10**9


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"kv_heads": 3}, "E504"),
        ({"embed_dim": 18}, "E504"),
        ({"num_heads": 0}, "E504"),
        ({"learned": ["doc"]}, "E502"),
        ({"window": 3}, "E502"),
        ({"arguments": {"windw": 3}}, "E502"),
        ({"pattern": {"maskc": 1, "pattern": SINKS, "hash": "0" * 64}}, "E603"),
        ({"pattern": "pattern p(g: float[q]) { attend causal; output o * g[q] }", "learned": ["g"]}, "E505"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(maskc.MaskcError) as raised:
        Attention.from_config({"embed_dim": 16, "num_heads": 4, "pattern": SINKS, **changes})
    assert raised.value.codes == (code,)


def test_inputs_are_given_by_name() -> None:
    with pytest.raises(MaskcError, match="by name") as error:
        module()(x(), DOC)
    assert error.value.codes == ("E510",)


def _train(rank: int, world: int, kind: str, folder: str) -> None:
    """One step of gradient descent; the first process writes what came of it."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    made: Any = module()
    if kind == "ddp":
        net: Any = torch.nn.parallel.DistributedDataParallel(made)
    elif kind == "tp":
        net = _split(made, world, use_local_output=False)
        made.learned["sink_logit"] = _whole(made.learned["sink_logit"], made.q_proj.weight.device_mesh)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        net = fully_shard(made, mesh=init_device_mesh("cpu", (world,)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    rows = x() if kind == "tp" else x()[rank : rank + 1]  # heads are split, or rows
    net(rows, doc=DOC).square().mean().backward()
    optimizer.step()
    found = {n: p.full_tensor() if hasattr(p, "full_tensor") else p for n, p in made.named_parameters()}
    if rank == 0:
        torch.save({n: p.detach().clone() for n, p in found.items()}, f"{folder}/result.pt")
    dist.destroy_process_group()


def _split(made: Any, world: int, **columns: Any) -> Any:
    """The heads of a module over processes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    plan: dict[str, Any] = {f"{n}_proj": ColwiseParallel(**columns) for n in "qkv"}
    return parallelize_module(made, init_device_mesh("cpu", (world,)), {**plan, "out_proj": RowwiseParallel()})


def _whole(parameter: Any, mesh: Any) -> Any:
    from torch.distributed.tensor import Replicate, distribute_tensor

    return torch.nn.Parameter(distribute_tensor(parameter.detach(), mesh, [Replicate()]))


def test_projections_that_are_split_say_how() -> None:
    made = module()
    made.q_proj = torch.nn.Linear(made.embed_dim, made.embed_dim // 2)  # what ColwiseParallel makes of it
    with pytest.raises(MaskcError, match="use_local_output=False") as error:
        made(x(), doc=DOC)
    assert error.value.codes == ("E510",)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "tp"])
def test_two_processes_train_as_one(kind: str, tmp_path: Any) -> None:
    torch.multiprocessing.spawn(_train, (2, kind, str(tmp_path)), nprocs=2)
    made = module()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    made(x(), doc=DOC).square().mean().backward()
    optimizer.step()
    for name, parameter in torch.load(tmp_path / "result.pt").items():
        torch.testing.assert_close(parameter, dict(made.named_parameters())[name].detach(), msg=name)
