import random
import signal
import time
from pathlib import Path

import pytest
from hypothesis import strategies as st
from stores import append, numbers, python, row

from koala.errors import KoalaError
from koala.harness.files import write_whole
from koala.harness.records import Store, read, set_aside

ROOT = Path(__file__).parents[2]

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
FIELDS = st.dictionaries(st.text().filter(lambda key: key != "schema"), VALUES, max_size=5)
ROWS = st.builds(lambda fields, kind: fields | {"kind": kind}, FIELDS, st.text().filter(lambda k: k != "environment"))


def test_a_second_store_on_the_same_file_is_refused_until_the_first_is_closed(path):
    with Store(path) as first:
        with pytest.raises(KoalaError, match=r"another run is writing .*rows\.jsonl.*--out"):
            Store(path)
        first.append(row(1))
    append(path, row(2))
    assert numbers(read([path])) == [1, 2]


def test_a_refused_store_leaves_no_file_open(path):
    with Store(path):
        before = len(list(Path("/dev/fd").iterdir()))
        for _ in range(3):
            with pytest.raises(KoalaError, match="another run"):
                Store(path)
        assert len(list(Path("/dev/fd").iterdir())) == before


OPEN_STORE = """
import sys
import time
from koala.errors import KoalaError
from koala.harness.records import Store
try:
    store = Store(sys.argv[1])
except KoalaError as error:
    print(f"refused: {error}")
else:
    print("opened", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def test_a_second_store_in_another_process_is_refused(path):
    with Store(path), python(OPEN_STORE, path, 0) as child:
        assert child.communicate()[0].startswith(f"refused: another run is writing {path}")
    with python(OPEN_STORE, path, 0) as child:
        assert child.communicate()[0] == "opened\n"


def test_a_store_of_a_process_that_was_killed_can_be_opened(path):
    with python(OPEN_STORE, path, 60) as child:
        assert child.stdout.readline() == "opened\n"
        with pytest.raises(KoalaError, match="another run"):
            Store(path)
        child.kill()
        child.wait()
        append(path, row(1))
    assert numbers(read([path])) == [1]


# ---- files put aside and files replaced


def test_setting_aside_never_overwrites_an_earlier_file(path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *_: "20250101-000000")
    asides = []
    for n in range(5):
        append(path, row(n))
        asides.append(set_aside(path))
        assert not path.exists()
    assert len(set(asides)) == 5
    assert [numbers(read([aside])) for aside in asides] == [[n] for n in range(5)]
    assert all(a.parent == path.parent and a.name.startswith("rows.2025") and a.suffix == ".jsonl" for a in asides)


def test_setting_aside_what_is_not_there_does_nothing(path):
    assert set_aside(path) is None
    assert list(path.parent.iterdir()) == []


def test_a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "new" / "table.md"
    for text in ("é" * 1000, "short"):
        write_whole(path, text)
        assert path.read_text(encoding="utf-8") == text
        assert list(path.parent.iterdir()) == [path]


SIZE = 200_000
REWRITE = f"""
import sys
from itertools import cycle
from pathlib import Path
from koala.harness.files import write_whole
for letter in cycle("abc"):
    write_whole(Path(sys.argv[1]), letter * {SIZE})
    print(letter, flush=True)
"""


def test_a_file_is_whole_at_every_moment_also_when_its_writer_is_killed(tmp_path):
    path, delays = tmp_path / "table.csv", random.Random(0)

    def is_whole():
        text = path.read_text()
        return len(text) == SIZE and len(set(text)) == 1

    for _ in range(10):
        with python(REWRITE, path) as child:
            assert child.stdout.readline() == "a\n"
            until = time.monotonic() + delays.uniform(0, 0.05)
            while time.monotonic() < until:
                assert is_whole()
            child.send_signal(signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
        assert is_whole()


APPEND = """
import sys
from itertools import count
from koala.harness.records import Store
with Store(sys.argv[1]) as store:
    for n in count(int(sys.argv[2])):
        store.append({"kind": "bench", "n": n, "samples_s": [0.1] * 20_000})
        print(n, flush=True)
"""


def test_every_row_that_was_reported_as_appended_survives_a_kill(path):
    delays, reported = random.Random(1), []
    for kill in range(8):
        with python(APPEND, path, 1000 * kill) as child:
            reported.append(int(child.stdout.readline()))
            time.sleep(delays.uniform(0, 0.03))
            child.send_signal(signal.SIGKILL)
            reported += map(int, child.stdout.read().split())
            assert child.wait() == -signal.SIGKILL
        found = read([path])
        assert set(reported) <= set(numbers(found))
        assert len(found.problems) <= kill + 1
        assert len(found.rows) <= len(reported) + kill + 1
        assert all(len(each["samples_s"]) == 20_000 for each in found.rows)
