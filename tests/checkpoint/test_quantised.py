"""Every quantised format is read back to the numbers that it means, and what does not fit is refused by name."""

from typing import Any

import pytest
import torch
from torch import Tensor

from moeprobe.checkpoint.quantised.codes import Restored, UnreadableError
from moeprobe.checkpoint.quantised.restore import restore_all
from tests.packed import Packed, compressed, every_format, four_bits, fp8, gptq, mlx

FORMATS = every_format()


def read(parts: dict[str, Tensor], config: dict[str, Any], columns: int | None = 128) -> Restored:
    stored = {name: f"model.layers.1.mlp.gate.{name}" for name in parts}
    left, made = restore_all(parts, stored, config, columns)
    assert set(left) == {"weight"}
    return made["weight"]


@pytest.mark.parametrize("packed", FORMATS.values(), ids=FORMATS)
def test_every_format_is_read_back(packed: Packed) -> None:
    found = read(packed.parts, packed.config)
    assert found.matrix.dtype == torch.float32
    assert found.matrix.shape == packed.means.shape
    assert torch.allclose(found.matrix, packed.means, rtol=1e-6, atol=1e-7)
    assert found.bits == packed.bits


def test_a_module_of_its_own_settings() -> None:
    packed = mlx(16, 128, 8, 64)
    said = {"bits": 4, "group_size": 32, "model.layers.1.mlp.gate": packed.config}
    assert torch.allclose(read(packed.parts, said).matrix, packed.means)
    v1 = {"quant_method": "gptq"}
    packed = gptq(32, 128, 8, 64, config=v1, less_one=True, order=False)
    said = v1 | {"bits": 4, "group_size": 32, "dynamic": {r"+:.*\.gate$": {"bits": 8, "group_size": 64}}}
    assert torch.allclose(read(packed.parts, said).matrix, packed.means)
    auto = {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}
    said = auto | {
        "bits": 4,
        "group_size": 32,
        "extra_config": {"model.layers.1.mlp.gate": {"bits": 8, "group_size": 64}},
    }
    assert torch.allclose(read(packed.parts, said).matrix, packed.means)


def test_words_that_are_not_filled_to_the_end() -> None:
    """compressed-tensors before 0.16: ten numbers of three bits in a word, two bits unused."""
    config = {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 3}}}}

    def filled(columns: int) -> tuple[Tensor, dict[str, Tensor]]:
        codes = torch.randint(0, 8, (4, columns), generator=torch.Generator().manual_seed(0))
        packed = torch.zeros(4, -(-columns // 10), dtype=torch.int32)
        for column in range(columns):
            packed[:, column // 10] |= codes[:, column].int() << (3 * (column % 10))
        shape = torch.tensor([4, columns])
        return codes, {"weight_packed": packed, "weight_shape": shape, "weight_scale": torch.ones(4, 1)}

    codes, parts = filled(320)
    assert torch.equal(read(parts, config, None).matrix, (codes - 4).float())
    with pytest.raises(UnreadableError, match="weight_packed"):  # four words either way
        read(filled(40)[1], config, None)


def test_a_plain_cast_is_what_it_says_only_where_it_is_declared() -> None:
    weight = torch.randn(8, 16).to(torch.float8_e4m3fn)
    assert torch.equal(read({"weight": weight}, {"plain_fp8": True}).matrix, weight.float())
    with pytest.raises(UnreadableError, match="no scales"):
        read({"weight": weight}, {})
    with pytest.raises(UnreadableError, match="no scales"):
        read({"weight": weight}, {"quant_method": "fp8"})


@pytest.mark.parametrize("packed", FORMATS.values(), ids=FORMATS)
def test_a_part_that_is_missing_or_cut_is_refused(packed: Packed) -> None:
    """Whatever part it is: all are needed, but a zero point or an order may be left out."""
    optional = {"g_idx", "weight_g_idx", "weight_zero_point", "weight_format"}
    for name, part in packed.parts.items():
        if name not in optional:
            with pytest.raises(UnreadableError):
                read({key: value for key, value in packed.parts.items() if key != name}, packed.config)
        alone = name == "weight" and part.dtype in (torch.int8, torch.float8_e4m3fn)  # the whole shape is its own
        if alone or name.startswith("weight.quant_state"):
            continue
        for dim in range(part.ndim):
            if part.shape[dim] > 1:
                cut = part.narrow(dim, 0, part.shape[dim] - 1).contiguous()
                with pytest.raises(UnreadableError):
                    read(packed.parts | {name: cut}, packed.config)


@pytest.mark.parametrize(
    ("parts", "config", "says"),
    [
        (compressed(16, 128, 4, 32).parts, {"config_groups": {"g": {"weights": {"num_bits": 8}}}}, "at 8 bits"),
        (
            compressed(16, 128, 4, 32).parts,
            {"config_groups": {"g": {"weights": {"num_bits": 4, "group_size": 64, "strategy": "group"}}}},
            r"is \[16, 4\] for 128 columns, and the config says groups of 64",
        ),
        (mlx(16, 128, 4, 32).parts, {"bits": 8, "group_size": 32}, "unpacks to 64 columns, and the hidden size is 128"),
        (mlx(16, 128, 4, 32).parts, {"bits": 4, "group_size": 64}, "groups of 64"),
        (mlx(16, 128, 4, 32).parts, {}, "does not say its bits"),
        (FORMATS["AWQ"].parts, FORMATS["AWQ"].config | {"version": "gemv"}, "gemv"),
        (FORMATS["AWQ"].parts, {"quant_method": "gptq", "bits": 4, "group_size": 32}, "not the layout of gptq"),
        (FORMATS["GPTQ v2"].parts, {"quant_method": "gptq", "bits": 8, "group_size": 32}, "the hidden size is 128"),
        (FORMATS["GPTQ v2"].parts, {"bits": 4, "group_size": 32}, "no declared method"),
        (
            FORMATS["GPTQ v2"].parts,
            {"quant_method": "gptq", "checkpoint_format": "marlin", "bits": 4, "group_size": 32},
            "marlin",
        ),
        ({"weight": torch.zeros(4, 8), "weight_scale": torch.ones(4, 1)}, {}, "stored as float32 with weight_scale"),
        ({"weight": torch.zeros(4, 8, dtype=torch.int8)}, {}, "stored as int8 with no scales"),
        (
            FORMATS["MLX int4"].parts | {"weight": torch.zeros(16, 128).to(torch.float8_e4m3fn)},
            {},
            "has biases as well",
        ),
        (FORMATS["fp8, one scale"].parts | {"weight_zero_point": torch.ones(1)}, {}, "that is not zero"),
        (FORMATS["AWQ"].parts | {"qzeros": torch.zeros(0, dtype=torch.int32)}, FORMATS["AWQ"].config, "holds nothing"),
        ({"W_q": torch.zeros(4, 8, dtype=torch.uint8)}, {"quant_method": "hqq"}, "HQQ"),
        (
            {"codes": torch.zeros(4, 8, 1, dtype=torch.int8), "codebooks": torch.zeros(1, 9)},
            {"quant_method": "aqlm"},
            "AQLM",
        ),
        ({"weight._data": torch.zeros(4, 8, dtype=torch.int8), "weight._scale": torch.ones(4)}, {}, "no codes"),
    ],
)
def test_what_does_not_fit_is_said(parts: dict[str, Tensor], config: dict[str, Any], says: str) -> None:
    with pytest.raises(UnreadableError, match=says):
        read(parts, config)


def test_the_state_of_bitsandbytes_is_held_against_the_codes() -> None:
    packed = four_bits(16, 128, "nf4", double=True)
    name = "weight.quant_state.bitsandbytes__nf4"
    for state in (b"{", b"[]", b'{"quant_type": "nf4"}', b'{"quant_type": "nf4", "blocksize": 64, "shape": [16, 64]}'):
        with pytest.raises(UnreadableError):
            read(packed.parts | {name: torch.tensor(list(state), dtype=torch.uint8)}, packed.config)


def test_what_is_no_code_stays() -> None:
    """Gemma's router has a scale for its input, and one for every expert; both are its own."""
    own = {"proj.weight": torch.randn(8, 16), "scale": torch.ones(16), "per_expert_scale": torch.ones(8)}
    left, made = restore_all(own, {name: name for name in own}, {}, 16)
    assert (left.keys(), made) == (own.keys(), {})


def test_other_tensors_in_fp8_are_refused() -> None:
    packed = fp8(8, 16, torch.tensor(0.5), "weight_scale", quant_method="modelopt")
    bias = {"e_score_correction_bias": torch.zeros(8).to(torch.float8_e4m3fn)}
    parts = packed.parts | bias
    with pytest.raises(UnreadableError, match="e_score_correction_bias is stored as float8_e4m3fn"):
        restore_all(parts, {name: name for name in parts}, packed.config, 16)
