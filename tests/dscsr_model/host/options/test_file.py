"""Option files that are none, keys that stand twice, and ``--force_yml``."""

import itertools

import pytest

from dscsr_model.host.options.check import OptionsError, check_options

BOMB = "a: &a [1]\n" + "\n".join(
    f"{this}: &{this} [{', '.join([f'*{other}'] * 9)}]" for other, this in itertools.pairwise("abcdefghi")
)


def raises(path, *words):
    with pytest.raises(OptionsError) as error:
        check_options(path, is_train=True)
    for word in (path.name, *words):
        assert word in str(error.value), str(error.value)


def test_no_such_file(tmp_path):
    raises(tmp_path / "optoins" / "a.yml", "no such file", "does not exist either")
    (tmp_path / "train_span_x4.yml").write_text("name: x")
    raises(tmp_path / "train_spam_x4.yml", "no such file", "Did you mean `train_span_x4.yml`?")
    raises(tmp_path, "a folder", "holds `train_span_x4.yml`")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [1, 2\nscale: 4\n", ("Expected YAML, but got an error in line 2, column", "the one above it")),
        ("name: x\n\tscale: 4\n", ("line 2", "never with tabs")),
        ("name: x: y\n", ("line 1, column 8",)),
        ("name: !!python/object/apply:os.system ['touch pwned']\n", ("!!python/object/apply:os.system", "never run")),
        ("a: &a {x: 1}\nb:\n  <<: *a\n", ("merge key `<<`",)),
        ("", ("an empty file",)),
        ("- a\n- b\n", ("`key: value` lines", "Is this the right file?")),
        ("name: 2024-13-45\n", ("one that it cannot",)),
        ("a: &a [*a]\n", ("Expected YAML",)),
        (BOMB, ("Expected at most 100,000 values, but got aliases",)),
        ("name: x\n# größe\n".encode("latin-1"), ("UTF-8", "line 2")),
    ],
)
def test_what_is_no_yaml_mapping(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "options.yml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    raises(file, *words)
    assert list(tmp_path.iterdir()) == [file]


def test_repeated_keys(check, tmp_path):
    check({})
    file = tmp_path / "options.yml"
    file.write_text(file.read_text() + "scale: 4\n")
    raises(file, "scale", f"again in line {len(file.read_text().splitlines())}, after line 3", "the last would win")


def test_force_yml_is_applied_before_checking(check, check_all):
    forced = ["scale=4", "train:total_iter=!!float1e2", "val:save_img=TRUE", "path:resume_state=none"]
    check_all({"scale": 3}, {}, force_yml=[*forced, "train:ema_decay=0.5", "train:scheduler:milestones=[1, 2]"])
    expected = "Expected 4, as `scale: 4` at the top says, but got 3"
    check_all({}, {"network_g: upscale": expected}, force_yml=["network_g:upscale=3"])


def test_faults_of_force_yml(check_all):
    entries = {
        "train:total_iter": "0 equal signs",
        "train=a=b": "2 equal signs",
        "trian:total_iter=5": "`trian`, which is no section of it. Did you mean `train`?",
        "teacher:weights=x": "cannot make new sections",
        "name:x=1": "`name`, which is no section of it",
        "train:scheduler:milestones=[1, x]": "cannot be read",
    }
    values = {
        "train: total_itr": "Did you mean `total_iter`?",
        "train: optim_g: lr": "the text '1.0e-4'. Write `0.0001`:",
        "train: warmup_iter": "the text '-1'",
    }
    forced = ["train:total_itr=5", "train:optim_g:lr=1.0e-4", "train:warmup_iter=-1"]
    expected = {f"--force_yml {entry}": text for entry, text in entries.items()} | values
    check_all({}, expected, force_yml=[*entries, *forced])
