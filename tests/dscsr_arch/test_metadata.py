import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dscsr_arch import CARN, EDSR, RCAN, SPAN, DSCLoRA, load_model
from dscsr_arch.errors import DscsrError, WeightsError
from dscsr_arch.metadata import Metadata, describe, from_metadata, to_metadata

MEAN = [0.1, 0.25, 0.3333]


COMMON = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "upscale": 2, "img_range": 2.0, "rgb_mean": MEAN}
NETWORKS = {
    SPAN: {
        "num_in_ch": 1, "num_out_ch": 3, "feature_channels": 4, "upscale": 4, "bias": False, "img_range": 1.0,
        "rgb_mean": [0.7], "norm": False, "residual": False,
    },
    CARN: {**COMMON, "final_relu": True},
    EDSR: {**COMMON, "num_block": 2, "res_scale": 0.25},
    RCAN: {**COMMON, "num_group": 2, "num_block": 3, "squeeze_factor": 2, "res_scale": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("form", ["pth", "safetensors"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_all_arguments_come_back_from_a_file(file, kind, form):
    arguments = NETWORKS[kind]
    network = kind(**arguments).eval()
    metadata = describe(network)
    assert metadata == (kind.__name__, arguments)
    assert from_metadata(to_metadata(metadata)) == metadata
    state, said = network.state_dict(), to_metadata(metadata)
    path = file({"params": state, "metadata": said}) if form == "pth" else file(state, "w.safetensors", said)
    loaded = load_model(path)
    assert describe(loaded) == metadata
    x = torch.rand(1, arguments["num_in_ch"], 4, 5)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), network(x))
    other = {"img_range": 3.0}
    assert describe(load_model(path, **other)).arguments == {**arguments, **other}


def test_a_network_with_lora_is_described_with_its_ranks():
    metadata = describe(DSCLoRA(feature_channels=8, upscale=2, lora_ranks={"conv_cat": (1, 2)}))
    assert metadata.network == "DSCLoRA"
    assert metadata.arguments["lora_ranks"] == {"conv_cat": (1, 2.0)}
    json.dumps(metadata.arguments)


def test_of_a_network_of_somebody_else_the_name_is_known():
    assert describe(nn.Conv2d(1, 1, 1)) == ("Conv2d", {})
    assert from_metadata(to_metadata(describe(nn.ReLU()))) == ("ReLU", {})


def test_metadata_of_other_programs_mean_nothing():
    for metadata in (None, {}, {"format": "pt"}, "text", {"network": "SPAN", "arguments": "{"}, {1: 2}):
        assert from_metadata(metadata) is None


FAULTS = [
    ({"dscsr": "2"}, "Expected format 1 of dscsr's metadata, but got '2'. Update dscsr"),
    ({"arguments": None}, "to be short texts, but got 'SPAN' and None"),
    ({"arguments": "[" * 9_000}, "Expected names and values as JSON in `arguments` of dscsr's metadata, but got '"),
    ({"arguments": '{"upscale": ' + "9" * 5000 + "}"}, "Expected names and values as JSON in"),
    ({"network": "CARN"}, "Expected metadata of SPAN, since the layers are its, but got 'CARN'"),
    ({"arguments": '{"img_range": 1e999}'}, "Expected `img_range` to be a positive number.* inf"),
    ({"arguments": '{"img_range": 1' + "0" * 400 + "}"}, "a positive number, such as 255 or 1, but got 1000"),
    ({"arguments": '{"img_range": "a"}'}, "but got 'a'. Give it yourself, as an override"),
    ({"arguments": '{"upscale": 3}'}, "Expected num_out_ch.* but got 12"),
]


@pytest.mark.parametrize(("changes", "message"), FAULTS)
def test_wrong_metadata_get_one_message(file, changes, message):
    network = SPAN(feature_channels=4, upscale=2)
    metadata = {**to_metadata(describe(network)), **changes}
    with pytest.raises(WeightsError, match=message):
        load_model(file({"params": network.state_dict(), "metadata": metadata}))


def test_an_override_stands_in_for_a_wrong_value_and_unknown_names_are_nothing(file):
    network = SPAN(feature_channels=4, upscale=2)
    arguments = '{"img_range": "a", "feature_channels": 1000000, "__class__": "os.system"}'
    metadata = {"dscsr": "1", "network": "SPAN", "arguments": arguments}
    assert load_model(file({"params": network.state_dict(), "metadata": metadata}), img_range=1.0).img_range == 1.0


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(max_examples=40)
@given(
    st.dictionaries(st.sampled_from(["dscsr", "network", "arguments"]) | st.text(), anything | st.just("1"), max_size=6)
)
def test_any_metadata_are_read_or_refused(metadata):
    try:
        metadata = from_metadata(metadata)
    except DscsrError:
        return
    assert metadata is None or isinstance(metadata, Metadata)
