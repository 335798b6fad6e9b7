from dscsr_model.data.hold_out import file_name, hold_out


def test_an_added_photograph_changes_at_most_one_of_the_choice(tmp_path):
    for number in range(60):
        (tmp_path / f"{number}").write_text(f"{number}")
    files = {f"photo{number}": tmp_path / f"{number}" for number in range(60)}
    held, copies = hold_out(dict(list(files.items())[:50]), 10)
    assert len(held) == 10
    assert not copies
    assert held != set(sorted(files)[:10])
    for last in range(51, 61):
        before, (held, _) = held, hold_out(dict(list(files.items())[:last]), 10)
        assert len(held & before) >= 9


def test_names_that_no_file_system_takes():
    long = "%E6%97%A5" * 50
    names = {file_name(long), file_name(f"{long}1"), file_name("photo_1")}
    assert len(names) == 3
    assert max(map(len, names)) == 204
    assert file_name("photo_1") == "photo_1.png"
