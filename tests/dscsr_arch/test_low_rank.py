import math

import pytest
import torch

from dscsr_arch.errors import LoRAError
from dscsr_arch.low_rank import adapters, average_lora, is_adapters, lora_ranks, scale_lora

UNIT = 3  # of 3x3 kernels


def adapter(rank=2, alpha=4.0, rows=18, columns=12, layer="body.0", dtype=torch.float64):
    return {
        f"{layer}.lora_A": torch.randn(rank * UNIT, columns, dtype=dtype),
        f"{layer}.lora_B": torch.randn(rows, rank * UNIT, dtype=dtype),
        f"{layer}.lora_alpha": torch.tensor(alpha, dtype=dtype),
    }


def update(state, layer="body.0"):
    rank = state[f"{layer}.lora_A"].shape[0] / UNIT
    return state[f"{layer}.lora_alpha"] / rank * (state[f"{layer}.lora_B"] @ state[f"{layer}.lora_A"])


@pytest.mark.parametrize("weights", [None, [0.7, -0.2, 1.5], [1, 0, 0]])
@pytest.mark.parametrize("ranks", [(1, 1, 1), (1, 2, 3), (4, 4, 4)], ids=str)  # at most 4 is the full rank
def test_the_average_is_that_of_the_updates(ranks, weights):
    states = [
        {**adapter(rank, alpha), **adapter(1, 3.0, 6, 9, "tail")} for rank, alpha in zip(ranks, (4, 1, 7), strict=True)
    ]
    mean = average_lora(states, weights)
    for layer in ("body.0", "tail"):
        expected = sum(w * update(state, layer) for w, state in zip(weights or [1 / 3] * 3, states, strict=True))
        # float64 sums of up to 24 products of the order of 10
        torch.testing.assert_close(update(mean, layer), expected, rtol=0, atol=1e-11)
    assert mean["body.0.lora_A"].shape[0] == UNIT * min(sum(ranks), 4)
    assert not torch.allclose(update(mean), update(states[1]))


@pytest.mark.parametrize("factor", [0, -1, 0.3])
def test_scaling_scales_the_update(factor):
    state = adapter()
    before = update(state)
    torch.testing.assert_close(update(scale_lora(state, factor)), factor * before, rtol=0, atol=1e-12)
    assert torch.equal(update(state), before)


def test_lora_ranks_reads_ranks_from_shapes_and_alphas_from_entries():
    state = {**adapter(2, 4.0), "body.0.weight": torch.zeros(6, 4, 3, 3), "head.weight": torch.zeros(2, 2)}
    assert lora_ranks(state) == {"body.0": (2, 4.0)}
    linear = {
        f"qkv.{name}": torch.ones(*size) for name, size in (("weight", (6, 4)), ("lora_A", (2, 4)), ("lora_B", (6, 2)))
    }
    dora = {**linear, "qkv.lora_alpha": torch.tensor(3.0), "qkv.lora_magnitude": torch.ones(6)}
    assert lora_ranks({**state, **dora}) == {"body.0": (2, 4.0), "qkv": (2, 3.0, True)}
    assert lora_ranks({"head.weight": torch.zeros(2, 2)}) == {}
    assert is_adapters(adapter())
    assert not is_adapters(state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adapters({}), "Expected the LoRA entries of at least one layer, but got none"),
        (
            lambda: adapters({**adapter(), "body.0.lora_B": torch.ones(18, 5)}),
            r"Expected lora_A \(r, n\) and lora_B \(m, r\) of layer 'body.0', but got \(6, 12\) and \(18, 5\)",
        ),
        (
            lambda: adapters(adapter(alpha=math.nan)),
            "lora_alpha of layer 'body.0' to be a positive number, .*nan",
        ),
        (
            lambda: lora_ranks(adapter()),
            r"Expected the weight \(out, in, kh, kw\) or \(out, in\) of 'body.0' .*, but got none",
        ),
        (
            lambda: lora_ranks({**adapter(), "body.0.weight": torch.ones(6)}),
            r"weight .* of 'body.0' beside its LoRA, but got one of shape \(6,\)",
        ),
        (
            lambda: adapters({**adapter(), "body.0.lora_magnitude": torch.ones(6, 1)}),
            r"Expected lora_magnitude \(out,\) of layer 'body.0', but got one of shape \(6, 1\)",
        ),
        (
            lambda: average_lora([{**adapter(), "body.0.lora_magnitude": torch.ones(6)}]),
            r"whose updates can be added up, but got those of DoRA \(body.0\)\. Average the networks",
        ),
        (lambda: scale_lora(adapter(), math.inf), "Expected `factor` to be a finite number, but got inf"),
        (lambda: average_lora([adapter()], [1, 2]), r"Expected 1 finite numbers as `weights`, but got \[1, 2\]"),
        (
            lambda: average_lora([adapter(), adapter(layer="tail")]),
            "Expected adapters of the same layers, but got number 1, which differs from number 0 in body.0, tail",
        ),
        (
            lambda: average_lora([adapter(), adapter(columns=15)]),
            "Expected adapters for one shape of layer 'body.0', but got updates of 18×12, 18×15",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(call, message):
    with pytest.raises(LoRAError, match=message):
        call()
