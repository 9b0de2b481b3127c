"""The page in headless Chromium: it learns what is drawn, on its own machine, on a phone too."""

import re
import shutil
from urllib.parse import urlparse

import numpy as np
import pytest
from PIL import Image

from anil_tf.export import Predictor
from anil_tf.export.head import fit_head

pytestmark = pytest.mark.slow  # each starts a browser


def test_it_learns_what_is_drawn(drive):
    seen = drive("learn")
    assert seen["answers"] == {symbol: symbol for symbol in ("cross", "circle", "zigzag")}
    assert seen["sum"] == pytest.approx(100, abs=2)
    assert not seen["complaints"]


def test_nothing_is_asked_of_another_machine(drive, address):
    seen = drive("escape")
    assert {urlparse(url).netloc for url in seen["requests"]} == {urlparse(address).netloc}
    assert seen["violations"] == ["connect-src", "img-src"]


def test_it_fits_a_phone(drive):
    seen = drive("phone")
    assert seen["width"] == 390
    assert seen["visible"] == {"Undo": True, "Clear": True, "Learn": True, "answer": True}
    assert seen["smallest"] >= 40
    assert seen["best"] == "circle"


def test_strokes_examples_and_classes_can_be_taken_back(drive):
    seen = drive("undo")
    both, one, none = seen["inks"]
    assert both > one > none == 0
    assert seen["examples"] == ["2 examples", "1 example"]
    assert seen["left"] == ["Class 1", "Class 3"]


def test_a_change_asks_to_learn_again(drive):
    seen = drive("change")
    assert seen["bars"] == [3, 0]
    assert seen["status"] == "Ready to learn."


def test_what_is_missing_is_said(drive):
    seen = drive("missing")
    assert seen["said"] == [
        "Add an example of “Class 1”, “Class 2”.",
        "Add an example of “Class 2”.",
        "Learning needs two classes: add one.",
        "Two classes are called “Class 1”: rename one.",
    ]
    assert seen["learnable"] == [False] * 4


def test_a_head_with_fixed_columns_is_not_given_more_classes(drive):
    seen = drive("six", "?bundle=per_class")
    assert seen["said"] == "This model tells at most 5 classes apart: remove some."


def test_photos_are_examples_too(drive, tmp_path):
    for name, shade in {"dark": 30, "light": 220}.items():
        Image.new("RGB", (60, 40), (shade, shade, shade)).save(tmp_path / f"{name}.png")
    seen = drive("photos", picture=tmp_path / "page.png")
    assert seen["examples"] == ["2 examples", "0 examples"]
    assert seen["shades"] == [30, 220]
    assert "notes.txt is not a picture" in seen["problem"]


def test_keys_name_a_class_and_reach_every_control(drive):
    seen = drive("keyboard")
    assert seen["forwards"] == seen["reachable"]
    assert seen["backwards"] == seen["reachable"][::-1]
    assert seen["name"] == "red mg"
    assert seen["status"] == "Add an example of “red mg”."
    assert seen["leftField"]


def test_one_of_several_bundles_is_chosen(drive, serve, page_copy):
    (page_copy / "bundles.json").unlink()
    (page_copy / "bundles.json").write_text('["per_class", "bundle/"]')
    seen = drive("choose", at=serve(page_copy))
    assert seen["options"] == ["per_class", "bundle"]
    first, second, chosen, again, back = seen["models"]
    assert (chosen, back) == ("bundle/", "per_class/") and first == again
    assert seen["search"] == "?bundle=per_class%2F" and not seen["complaints"]
    backbones = [urlparse(url).path for url in seen["requests"] if url.endswith("backbone.onnx")]
    assert backbones == [
        f"/{name}/onnx/backbone.onnx" for name in ("per_class", "bundle", "per_class")
    ]


@pytest.mark.parametrize("content", [None, '{"photos": 1}'])
def test_without_a_list_there_is_no_choice(drive, serve, page_copy, content):
    (page_copy / "bundles.json").unlink()
    if content is not None:
        (page_copy / "bundles.json").write_text(content)
    seen = drive("six", at=serve(page_copy))
    assert "Add an example" in seen["said"]


@pytest.fixture
def page_copy(page_root, tmp_path):
    """The page's folder, for a test that takes something out of it."""
    for path in page_root.iterdir():
        (tmp_path / path.name).symlink_to(path.resolve())
    return tmp_path


def test_a_page_without_its_packages_says_what_to_run(drive, serve, page_copy):
    (page_copy / "node_modules").unlink()
    seen = drive("problem", at=serve(page_copy))
    assert "npm ci" in seen["problem"] and not seen["usable"]


def test_a_runtime_that_is_not_whole_says_what_to_run(drive, serve, page_copy):
    packages = (page_copy / "node_modules").resolve()
    (page_copy / "node_modules").unlink()
    folder = page_copy / "node_modules" / "onnxruntime-web" / "dist"
    folder.mkdir(parents=True)
    script = "onnxruntime-web/dist/ort.wasm.bundle.min.mjs"
    (page_copy / "node_modules" / script).symlink_to(packages / script)
    seen = drive("problem", at=serve(page_copy))
    assert "npm ci" in seen["problem"] and not seen["usable"]


def test_it_says_none_of_these_and_what_an_answer_rests_on(drive, tmp_path):
    seen = drive("none", picture=tmp_path / "page.png")
    assert seen["shares"] == ["99 %", "50 %"]
    assert seen["said"] == ["cross", "None of these"]
    assert seen["bases"] == [["cross"], []]
    assert seen["seesVerdict"] == [False, True]  # the bars are seen in its place


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("manifest.json", lambda content: content[:1]),
        ("manifest.json", lambda _: b"null"),
        ("manifest.json", lambda content: content.replace(b'"image_shape"', b'"shape"')),
        ("onnx/backbone.onnx", lambda content: content[: len(content) // 2]),
        ("onnx/adapt.onnx", lambda _: b""),
    ],
    ids=["half a manifest", "null", "no shape", "half a graph", "an empty graph"],
)
def test_a_bundle_that_is_damaged_is_named(drive, serve, page_copy, file, damage):
    bundle = (page_copy / "bundle").resolve()
    (page_copy / "bundle").unlink()
    damaged = shutil.copytree(bundle, page_copy / "bundle") / file
    damaged.write_bytes(damage(damaged.read_bytes()))
    seen = drive("problem", at=serve(page_copy))
    assert "No bundle could be opened at “bundle/”" in seen["problem"]
    assert "Copy or link an exported bundle there" in seen["problem"] and not seen["usable"]


@pytest.mark.parametrize("missing", ["app.js", "paper.js", "fewshot.js"])
def test_a_page_whose_script_does_not_run_says_so(drive, serve, page_copy, missing):
    (page_copy / missing).unlink()
    seen = drive("notStarted", at=serve(page_copy))
    assert "python -m http.server" in seen["said"]
    assert not seen["atOnce"]


def test_a_page_opened_as_a_file_says_so(drive, page_copy):
    seen = drive("notStarted", at=(page_copy / "index.html").as_uri())
    assert "python -m http.server" in seen["said"]
    assert seen["status"] == ""  # and not that it is loading


def test_a_page_without_javascript_says_so(drive):
    seen = drive("withoutJavaScript")
    assert "It needs JavaScript" in seen["said"]
    assert seen["status"] == ""


def test_a_browser_without_webassembly_is_told_so(drive):
    seen = drive("withoutWebAssembly")
    assert "This browser has no WebAssembly" in seen["problem"] and not seen["usable"]


@pytest.mark.parametrize("query", ["?bundle=absent", "?bundle=http://127.0.0.1:9/"])
def test_a_page_without_a_bundle_says_so(drive, query):
    seen = drive("problem", query)
    assert "No bundle could be opened" in seen["problem"]
    assert not seen["usable"]


def test_what_was_learned_is_saved_and_opened_again_by_the_page_and_by_python(
    drive, bundle, tmp_path
):
    seen = drive("keep", picture=tmp_path / "page.png")
    assert seen["saveable"] == [False, True]
    assert seen["answers"] == ["circle", "cross"]
    assert seen["counts"] == ["2 examples"] * 3
    head = Predictor(bundle, tmp_path / "page.npz")
    assert sorted(head.names) == ["circle", "cross", "zigzag"]
    assert set(head.counts.values()) == {2}
    saved = head.head
    assert saved.accept == 0.95
    support = {
        name: saved.support_features[saved.support_labels == label]
        for label, name in enumerate(saved.names)
    }
    learned, _ = fit_head(head.runtime, support)
    for label, name in enumerate(saved.names):
        column = learned.names.index(name)
        np.testing.assert_allclose(
            saved.kernel[:, label], learned.kernel[:, column], rtol=1e-3, atol=1e-5
        )


def test_a_head_of_python_is_opened_and_another_file_is_not(drive, bundle, tmp_path):
    strokes = {"crosses ✕": np.eye(28, dtype=bool) | np.eye(28, dtype=bool)[::-1]}
    strokes["boxes"] = np.pad(np.zeros((16, 16), bool), 3, constant_values=True)
    strokes["boxes"] = np.pad(strokes["boxes"], 3)
    predictor = Predictor(bundle)
    for name, ink in strokes.items():
        predictor.add_class(name, np.where(ink, 0, 255).astype(np.uint8)[..., np.newaxis])
    predictor.save(tmp_path / "python.npz")
    (tmp_path / "broken.npz").write_bytes((tmp_path / "python.npz").read_bytes()[:200])
    predictor.head._replace(backbone_sha256="0" * 64).write(tmp_path / "foreign.npz")
    seen = drive("open", picture=tmp_path / "page.png")
    assert seen["said"][0].startswith("This file is not a head that anil-tf saved. (")
    assert seen["said"][1].startswith("This head was made with another model than “")
    assert seen["names"] == ["boxes", "crosses ✕"]
    assert seen["answer"] == "crosses ✕"


def test_what_was_learned_is_there_at_the_next_visit_without_a_network(drive):
    seen = drive("revisit")
    assert seen["names"] == ["cross", "circle", "zigzag"]
    assert seen["answer"] == "zigzag"


def test_the_browser_asks_before_examples_are_lost_that_were_not_learned(drive):
    assert drive("leave")["asked"] == [False, True, False]


def test_a_file_that_is_no_picture_harms_no_other(drive, tmp_path):
    Image.new("RGB", (60, 40), (30, 30, 30)).save(tmp_path / "page.png")
    seen = drive("mixed", picture=tmp_path / "page.png")
    assert seen["examples"] == ["2 examples", "1 example"]
    files = [text.split(" is not a picture")[0] for text in seen["problems"]]
    assert files == ["b.png", "e.txt"]


def test_what_was_removed_is_brought_back(drive):
    seen = drive("bringBack")
    all_of_them = [["cross", "circle", "zigzag"], ["2 examples"] * 3]
    less = [all_of_them[0], ["2 examples", "1 example", "2 examples"]]
    without = [["cross", "zigzag"], ["2 examples"] * 2]
    assert seen["states"] == [all_of_them, less, all_of_them, without, all_of_them]
    assert not seen["offers"]


def test_the_camera_adds_an_example_at_a_click_and_many_while_held(drive):
    seen = drive("camera")
    assert seen["once"] == "1 example"
    assert seen["held"] >= 3
    assert seen["after"] in (seen["held"], seen["held"] + 1)  # the release is a click too
    assert seen["blank"] and not seen["complaints"]


def test_a_machine_without_a_camera_is_told_so(drive):
    assert drive("withoutCamera")["problem"].startswith("The camera did not start: ")


def test_a_slow_network_shows_how_much_has_arrived(drive):
    seen = drive("slow")
    loaded, totals = zip(
        *(map(float, re.findall(r"[\d.]+", text)) for text in seen["said"]), strict=True
    )
    assert len(loaded) > 3 and sorted(loaded) == list(loaded)
    assert totals[-1] >= loaded[-1] > 5  # the runtime alone has more megabytes
    assert not seen["visible"]


def test_everybody_can_use_it_at_any_width_in_light_and_dark(drive):
    seen = drive("access")
    assert not seen["found"]
    assert seen["overflows"] == dict.fromkeys(["320", "375", "768", "1280", "1920"], 0)
