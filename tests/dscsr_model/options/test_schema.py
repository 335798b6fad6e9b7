"""`dscsr schema`: what is committed is what it prints."""

import json

import pytest
from conftest import ROOT

from dscsr_model import cli


@pytest.mark.parametrize(("flags", "file"), [([], "options/schema.json"), (["--markdown"], "docs/options.md")])
def test_committed_files_are_current(capsys, flags, file):
    assert cli.main(["schema", *flags]) == 0
    assert capsys.readouterr().out == (ROOT / file).read_text(encoding="utf-8"), f"run dscsr schema > {file}"


def test_what_the_schema_knows():
    schema = json.loads((ROOT / "options/schema.json").read_text(encoding="utf-8"))
    kinds = schema["$defs"]
    assert kinds["SPAN"]["properties"]["feature_channels"] == {
        "default": 48,
        "description": "Width of the network: 48 in the paper, 26 and 28 in challenge versions.",
        "type": "integer",
    }
    assert kinds["TrainSection"]["additionalProperties"] is False
    assert "_opt$" in kinds["TrainSection"]["patternProperties"]
    assert {"name", "model_type", "network_g"} <= set(kinds["Options"]["required"])
    assert {"SRModel", "CSDModel", "DSCLoRAModel"} <= set(schema["if"]["properties"]["model_type"]["enum"])
    references = set(json.dumps(schema).split('"#/$defs/')[1:])
    assert {reference.split('"')[0] for reference in references} <= set(kinds)
