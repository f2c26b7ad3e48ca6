"""RetrievalIndex: exact against a slow loop, incremental, and whole or refused on disk."""

from __future__ import annotations

import json
import os
import shutil
import sys

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from magicap import BadImage, BadIndex, BadSettings, Item, MissingPackage, RetrievalIndex
from magicap.retrieval import nearest as search
from magicap.retrieval.header import index_folder
from magicap.retrieval.nearest import nearest

SENTENCES = ["A dog runs.", "Two children play on a beach.", "A red car.", "A man climbs a rock."]


@pytest.fixture(scope="module")
def scorer():
    return tiny.scorer()


@pytest.fixture
def album(tmp_path):
    """Five pictures: paths by name."""
    folder = tmp_path / "album"
    folder.mkdir()
    for number, picture in enumerate(tiny.pictures(5)):
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


def files(folder):
    return sorted(folder.glob("*.png"))


def names(matches):
    return [os.path.basename(match.item.path) for match in matches]


def nearest_by_loop(queries, vectors, count):
    """The definition: every cosine in double precision, the largest first, of equals the earlier."""
    positions = []
    for query in queries.double().tolist():
        cosines = [
            np.float32(sum(q * x for q, x in zip(query, vector, strict=True)))
            for vector in vectors.double().tolist()
        ]
        positions.append(sorted(range(len(cosines)), key=lambda i: (-cosines[i], i))[:count])
    return positions


def unit(rows):
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32).reshape(-1, 3), dim=1)


# Small whole numbers: many vectors are equal, and many cosines are.
_vector = st.tuples(*[st.integers(-2, 2)] * 3).filter(any)


@given(
    st.lists(_vector, max_size=4),
    st.lists(_vector, max_size=30),
    st.integers(1, 40),
    st.sampled_from([1, 7, 1 << 20]),
)
def test_the_nearest_are_those_of_a_slow_loop_however_the_product_is_cut(queries, items, count, piece):
    queries, vectors = unit(queries), unit(items)
    whole = search.MOST_COSINES, search.MOST_DOUBLES
    search.MOST_COSINES = search.MOST_DOUBLES = piece
    try:
        cosines, positions = nearest(queries, vectors, count)
    finally:
        search.MOST_COSINES, search.MOST_DOUBLES = whole
    expected = nearest_by_loop(queries, vectors, count)
    assert positions.tolist() == expected or not len(queries)
    assert cosines.shape == (len(queries), min(count, len(vectors)))
    for query, row, places in zip(queries, cosines, positions, strict=True):
        torch.testing.assert_close(row, vectors[places] @ query, atol=1e-6, rtol=0)


def test_single_precision_does_not_decide_between_near_equals():
    generator = torch.Generator().manual_seed(0)
    base = torch.nn.functional.normalize(torch.randn(1, 200, generator=generator), dim=1)
    # Cosines apart by less than single precision's rounding of a sum of 200 products.
    vectors = base + 3e-8 * torch.randn(300, 200, generator=generator)
    _, positions = nearest(base, vectors, 20)
    assert positions.tolist() == nearest_by_loop(base, vectors, 20)


def test_search_in_every_direction_is_the_scorers_own_similarity(scorer, album):
    pictures = RetrievalIndex(scorer)
    pictures.update_images(files(album))
    sentences = RetrievalIndex(scorer)
    sentences.update_texts(SENTENCES)
    cosine = scorer.similarity(files(album), SENTENCES)
    by_text = pictures.search_texts(SENTENCES, top_k=3)
    by_picture = sentences.search_images(files(album), top_k=3)
    for text, matches in enumerate(by_text):
        assert [m.position for m in matches] == cosine[:, text].argsort(descending=True)[:3].tolist()
        assert [m.rank for m in matches] == [1, 2, 3]
        for match in matches:
            assert match.cosine == pytest.approx(float(cosine[match.position, text]), abs=1e-5)
    for picture, matches in enumerate(by_picture):
        assert [m.item.text for m in matches] == [
            SENTENCES[i] for i in cosine[picture].argsort(descending=True)[:3]
        ]
    alike = pictures.search_images(files(album), top_k=1)
    assert [names(matches) for matches in alike] == [[f"{i}.png"] for i in range(5)]
    assert all(matches[0].cosine == pytest.approx(1, abs=1e-5) for matches in alike)


def test_more_than_there_are_gives_all_and_none_are_refused(scorer):
    index = RetrievalIndex(scorer)
    assert index.search_texts(["A dog."]) == [[]]
    index.update_texts(SENTENCES)
    assert len(index.search_texts(["A dog."], top_k=99)[0]) == 4
    assert index.search_texts([]) == []
    refused = [
        lambda: index.search_texts(["A dog."], top_k=0),
        lambda: index.search_texts([" "]),
        lambda: index.search_texts("A dog."),
        lambda: index.search_texts(["\ud800"]),
        lambda: index.search(torch.ones(1, 3)),
        lambda: index.update_images([]),
        lambda: index.update_texts(["ok", ""]),
        lambda: index.update_texts(["new"], batch_size=0),
    ]
    for wrong in refused:
        with pytest.raises(BadSettings):
            wrong()
    assert [item.text for item in index.items] == SENTENCES


def test_of_equals_the_earlier_stands_first_and_what_stands_twice_is_kept_once(scorer, album):
    for copy in ("7.png", "8.png"):
        shutil.copy(album / "3.png", album / copy)
    index = RetrievalIndex(scorer)
    index.update_images([*files(album), album / "0.png"])
    assert len(index) == 7
    assert names(index.search_images([album / "8.png"], top_k=3)[0]) == ["3.png", "7.png", "8.png"]


@pytest.fixture
def encoded(scorer, monkeypatch):
    """The paths of pictures that were encoded since."""
    seen = []
    pixels = scorer.pixels
    monkeypatch.setattr(scorer, "pixels", lambda path: (seen.append(os.path.basename(path)), pixels(path))[1])
    return seen


def test_an_update_encodes_what_is_new_or_changed_and_drops_what_is_gone(scorer, album, encoded):
    index = RetrievalIndex(scorer)
    assert index.update_images(files(album)).added == 5
    encoded.clear()
    changes = index.update_images(files(album))
    assert (changes.added, changes.kept, changes.dropped, changes.failed) == (0, 5, 0, 0)
    assert encoded == []

    (album / "1.png").unlink()
    Image.fromarray(tiny.pictures(1, seed=9)[0]).save(album / "3.png")
    os.utime(album / "3.png", ns=(1, 1))
    Image.fromarray(tiny.pictures(1, seed=8)[0]).save(album / "05.png")
    changes = index.update_images(files(album))
    assert encoded == ["05.png", "3.png"]
    assert (changes.added, changes.kept, changes.dropped) == (2, 3, 2)
    assert [os.path.basename(item.path) for item in index.items] == [
        "0.png",
        "05.png",
        "2.png",
        "3.png",
        "4.png",
    ]
    torch.testing.assert_close(index.vectors, scorer.encode_images(files(album)), atol=1e-6, rtol=0)


def test_a_broken_picture_is_reported_and_tried_again(scorer, album, encoded):
    (album / "2.png").write_bytes(b"")
    index = RetrievalIndex(scorer)
    with pytest.raises(BadImage, match=r"2\.png"):
        index.update_images(files(album))
    errors = []
    changes = index.update_images([*files(album), album / "none.png"], on_error=errors.append)
    assert sorted(error.code for error in errors) == ["empty", "missing"]
    assert (len(index), changes.failed) == (4, 2)
    Image.fromarray(tiny.pictures(1)[0]).save(album / "2.png")
    encoded.clear()
    index.update_images(files(album))
    assert encoded == ["2.png"]


def test_interrupted_it_keeps_what_is_encoded(scorer, album, encoded):
    def stop(count):
        if count:
            raise KeyboardInterrupt

    index = RetrievalIndex(scorer)
    with pytest.raises(KeyboardInterrupt):
        index.update_images(files(album), batch_size=2, on_progress=stop)
    assert [os.path.basename(item.path) for item in index.items] == ["0.png", "1.png"]
    encoded.clear()
    counts = []
    assert index.update_images(files(album), batch_size=2, on_progress=counts.append).kept == 2
    assert encoded == ["2.png", "3.png", "4.png"]
    assert counts == [2, 2, 1]


@pytest.fixture
def kept(scorer, album):
    """An index of pictures on disk, in its usual place."""
    index = RetrievalIndex(scorer, preset="tiny")
    index.update_images(files(album))
    index.save(index_folder(album))
    return index_folder(album)


def test_what_was_saved_is_loaded_and_moves_with_its_pictures(scorer, album, kept, encoded):
    before = RetrievalIndex.load(kept, scorer)
    assert before.preset == "tiny"
    moved = album.with_name("moved")
    album.rename(moved)
    index = RetrievalIndex.load(index_folder(moved), scorer)
    assert torch.equal(index.vectors, before.vectors)
    assert names(index.search_images([moved / "2.png"], top_k=1)[0]) == ["2.png"]
    assert index.update_images(files(moved)).kept == 5
    assert encoded == ["2.png"]  # the query


@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip), min_size=1
    )
)
def test_any_sentences_come_back_as_they_went(texts, scorer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts") / "index"
    index = RetrievalIndex(scorer)
    index.items = [Item(text=text) for text in dict.fromkeys(texts)]
    index.vectors = torch.eye(scorer.width)[:1].repeat(len(index), 1)
    index.save(folder)
    assert RetrievalIndex.load(folder, scorer).items == index.items


def test_a_file_name_need_not_be_text(scorer, album):
    os.rename(os.fsencode(album / "1.png"), os.fsencode(album) + b"/caf\xe9.png")
    index = RetrievalIndex(scorer)
    index.update_images(files(album))
    index.save(index_folder(album))
    loaded = RetrievalIndex.load(index_folder(album), scorer)
    assert loaded.items == index.items
    assert loaded.update_images(files(album)).kept == 5


def test_the_files_are_what_any_program_reads(kept):
    from pyarrow import parquet
    from safetensors.numpy import load_file

    header = json.loads((kept / "index.json").read_text())
    table = parquet.read_table(kept / header["items"])
    assert table.column("path").to_pylist() == [f"{i}.png" for i in range(5)]
    assert load_file(kept / header["vectors"])["vectors"].shape == (5, 24)
    assert sorted(os.listdir(kept)) == sorted(["index.json", header["items"], header["vectors"]])


def test_an_index_by_another_scorer_is_refused_with_both_names_and_the_fix(kept):
    other = tiny.scorer(seed=1)
    own = json.loads((kept / "index.json").read_text())["scorer"]
    with pytest.raises(BadIndex) as refused:
        RetrievalIndex.load(kept, other)
    for word in (
        f"expected an index by the scorer {other.fingerprint}",
        f"found one by {own}",
        "tiny",
        "--rebuild",
    ):
        assert word in str(refused.value)


def test_what_was_indexed_is_enough_to_load_its_index(scorer, album, kept):
    assert RetrievalIndex.load(album, scorer).items == RetrievalIndex.load(kept, scorer).items


def test_who_may_read_one_file_of_an_index_may_read_them_all(kept):
    assert len({path.stat().st_mode for path in kept.iterdir()}) == 1


def test_pictures_and_sentences_are_kept_apart(scorer, kept):
    index = RetrievalIndex.load(kept, scorer)
    with pytest.raises(BadSettings, match="expected an index of sentences, found one of pictures"):
        index.update_texts(SENTENCES)
    assert len(index) == 5


@given(data=st.data())
def test_damaged_files_are_one_sentence_or_still_the_same_index(data, scorer, whole_index, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged") / "index"
    shutil.copytree(whole_index, folder)
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    message = ""
    try:
        assert len(RetrievalIndex.load(folder, scorer).search_texts(["A dog."], top_k=9)[0]) == 5
    except BadIndex as error:
        message = str(error)
    assert len(message.splitlines()) <= 1


@pytest.fixture(scope="module")
def whole_index(scorer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for number, picture in enumerate(tiny.pictures(5)):
        Image.fromarray(picture).save(folder / f"{number}.png")
    index = RetrievalIndex(scorer)
    index.update_images(files(folder))
    index.save(index_folder(folder))
    return index_folder(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"magicap_index": 3}, "expected format 1 or 2, found 3"),
        ({"vectors": "../../elsewhere"}, "damaged"),
        ({"vectors": "vectors-00.safetensors"}, "damaged"),
        ({"items": "items-00.parquet"}, "damaged"),
        ({"count": 6}, "damaged"),
        ({"width": 23}, "damaged"),
        ({"holds": "text"}, "damaged"),
        ({"holds": "sound"}, "damaged"),
        ({"count": True}, "damaged"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(kept, scorer, change, words):
    header = json.loads((kept / "index.json").read_text())
    (kept / "index.json").write_text(json.dumps({**header, **change}))
    with pytest.raises(BadIndex, match=words):
        RetrievalIndex.load(kept, scorer)


def test_what_is_no_index_is_neither_read_nor_written_over(scorer, tmp_path):
    index = RetrievalIndex(scorer)
    with pytest.raises(BadSettings, match="empty"):
        index.save(tmp_path / "new")
    index.update_texts(SENTENCES)
    with pytest.raises(BadIndex, match=f"magicap index {tmp_path}"):
        RetrievalIndex.load(tmp_path / ".magicap-index", scorer)
    (tmp_path / "index.json").write_text('{"name": "a package of another language"}')
    with pytest.raises(BadIndex, match="no index at"):
        RetrievalIndex.load(tmp_path, scorer)
    with pytest.raises(BadIndex, match=r"an empty folder, found 'index\.json' in it"):
        index.save(tmp_path)
    os.rename(tmp_path / "index.json", tmp_path / "package.json")
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BadIndex, match=r"package\.json"):
        index.save(tmp_path)
    with pytest.raises(BadSettings, match="cannot be written"):
        index.save(tmp_path / "thesis.txt")
    assert sorted(os.listdir(tmp_path)) == ["package.json", "thesis.txt"]


def test_a_save_that_is_stopped_leaves_the_index_that_was_there(scorer, album, kept, monkeypatch):
    from pyarrow import parquet

    def stop(*_):
        raise KeyboardInterrupt

    index = RetrievalIndex.load(kept, scorer)
    index.update_images(files(album)[:2])
    monkeypatch.setattr(parquet, "write_table", stop)
    with pytest.raises(KeyboardInterrupt):
        index.save(kept)
    monkeypatch.undo()
    assert len(RetrievalIndex.load(kept, scorer)) == 5
    index.save(kept)
    assert len(RetrievalIndex.load(kept, scorer)) == 2
    assert len(os.listdir(kept)) == 3


def test_without_pyarrow_the_error_says_how_to_install_it(scorer, kept, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackage, match=r"pip install 'magicap\[search\]'"):
        RetrievalIndex.load(kept, scorer)
