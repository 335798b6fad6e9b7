"""`dscsr schema`: what is committed is what it prints, and every option file says where its schema is."""

import json

import pytest
from conftest import ROOT

from dscsr_model import cli

FILES = sorted((ROOT / "options").glob("*.yml"))


@pytest.mark.parametrize(("flags", "file"), [([], "options/schema.json"), (["--markdown"], "docs/options.md")])
def test_committed_files_are_current(capsys, flags, file):
    assert cli.main(["schema", *flags]) == 0
    assert capsys.readouterr().out == (ROOT / file).read_text(encoding="utf-8"), f"run dscsr schema > {file}"


def test_every_option_file_names_the_schema():
    assert FILES
    for file in FILES:
        header = [line for line in file.read_text(encoding="utf-8").splitlines()[:40] if line.startswith("#")]
        assert "# yaml-language-server: $schema=schema.json" in header, file.name


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
