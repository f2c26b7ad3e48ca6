"""build_strong.py: its configs, what it expects, and all of it at stand-in size, killed and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from hub import stand_in_hub
from repository import EVAL, RECIPES, ROOT, parse, recipe, script

from magicap import BeamMagicSearch, CaptionMemory, load_captioner
from magicap.adaptation.tuning import tune_decoding
from magicap.errors import BadData, BadSettings, ImageNotFound, ModelNotFound

build = recipe("build_strong")
import estimate  # noqa: E402
import tinydata  # noqa: E402
from cli import arguments_of  # noqa: E402

CONFIGS = sorted((RECIPES / "strong").glob("*.yaml"))
SUBJECTS = ("A dog", "Two children", "A man", "Bikers")
DOINGS = ("runs across the grass.", "plays on a beach.", "climbs a wall.", "jumps near the sea.")
TINY = {
    "language_model": "me/words",
    "scorer": "hf-hub:me/towers",
    "max_tokens": 20,
    "tuning_batch_size": 16,
    "max_steps": 40,
    "prompt_epochs": 20,
    "learning_rate": 1e-2,
    "memory_samples": 30,
    "dev_pictures": 4,
    "neighbours": [10],
    "temperatures": [1.0, 2.0],
    "ngram_weights": [0.5],
    "rerank_weights": [0.0],
    "cpu": True,
}


def config_of(file: Path, **options: Any) -> Any:
    arguments = ["--config", str(file), *arguments_of({"captions": "dataset_coco.json", **options})]
    return parse(build.Config, arguments, "build_strong")


def karpathy_set(folder: Path) -> tuple[Path, Path]:
    """``dataset_coco.json`` with drawn pictures of dev and test, and the folder of these."""
    pictures = folder / "val2014"
    pictures.mkdir(parents=True)
    images = []
    for number, split in enumerate(["train"] * 16 + ["restval"] * 4 + ["val"] * 4 + ["test"] * 6):
        texts = [f"{subject} {DOINGS[(number + n) % 4]}" for n, subject in enumerate(SUBJECTS)]
        name = f"COCO_val2014_{number:012}.jpg"
        sentences = [{"raw": text} for text in texts]
        images.append({"filename": name, "filepath": "val2014", "split": split, "sentences": sentences})
        if split in ("val", "test"):
            scene = tinydata.COLOURS[number % 6], tinydata.SHAPES[number % 5], tinydata.GROUNDS[number % 4]
            tinydata.picture_of(scene).save(pictures / name)
    file = folder / "dataset_coco.json"
    file.write_text(json.dumps({"dataset": "coco", "images": images}))
    return file, pictures


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_config_is_complete_and_every_stage_reads_its_options(file):
    import open_clip

    config = config_of(file, images=["val2014"])
    assert config.out == f"runs/{file.stem}"
    assert file.stem.startswith(f"{config.published}_")
    assert (config.scorer, config.scorer_tag) in open_clip.list_pretrained()
    stages = build.stages_of(config)
    assert [stage.name for stage in stages] == ["language_model", "memory", "soft_prompt", "captioner"]
    for stage in stages:
        options = parse(recipe(stage.recipe).Config, arguments_of(stage.options), stage.recipe)
        for name, value in stage.options.items():
            assert getattr(options, name) == value, name


def test_four_pairs_have_a_config():
    assert [file.stem for file in CONFIGS] == [
        f"{data}_{pair}"
        for data in ("coco", "flickr30k")
        for pair in ("gpt2_medium_siglip2", "gpt2_vit_l_14")
    ]


def test_a_stage_is_another_where_one_before_it_is(tmp_path):
    config = replace(config_of(CONFIGS[0]), out=str(tmp_path))
    digests = {}
    for name, changed in {
        "same": {},
        "device": {"cpu": True, "mixed_precision": "no"},
        "memory": {"memory_bits": 4},
        "steps": {"max_steps": 9},
    }.items():
        stages = build.stages_of(replace(config, **changed))
        digests[name] = [build.job_of(stages, number).options for number in range(len(stages))]
    assert digests["same"] == digests["device"]
    assert digests["same"][0] == digests["memory"][0]
    assert not set(digests["same"][1:]) & set(digests["memory"])
    assert not set(digests["same"]) & set(digests["steps"])


@pytest.fixture
def gpt2(tmp_path) -> str:
    from transformers import GPT2Config

    GPT2Config().save_pretrained(tmp_path / "gpt2")
    return str(tmp_path / "gpt2")


def test_the_expected_time_and_disk_follow_from_weights_and_words(gpt2):
    shape = estimate.shape_of(gpt2, "ViT-L-14")
    assert (shape.language_model, shape.scorer) == (124_439_808, 427_616_513)
    assert (shape.patches, shape.context, shape.width) == (257, 77, 768)
    text = estimate.Text.of(["A dog runs across the grass."] * 1000)
    assert (text.sentences, text.tokens) == (1000, 8000)
    config = replace(config_of(RECIPES / "strong" / "coco_gpt2_vit_l_14.yaml"), language_model=gpt2)
    costs = {cost.stage: cost for cost in estimate.costs(config, shape, text, text, 0)}
    assert costs["language_model"].operations == 6 * 124_439_808 * 8000 * 3
    assert costs["downloads"].bytes == 4 * shape.scorer  # the language model lies in a folder
    assert costs["evaluation"].operations == costs["captioner"].operations == 0
    rows = estimate.table(list(costs.values()), teraflops=1e-3).splitlines()
    assert rows[2].split() == ["language_model", "4", "h", "59", "min", "3.5", "GB"]
    measured = replace(config, images=["val2014"])
    assert estimate.costs(measured, shape, text, text, 5000)[-1].operations > 0


def test_what_cannot_be_is_refused_before_anything_is_built(tmp_path, gpt2):
    file, pictures = karpathy_set(tmp_path)
    choose = recipe("choose_decoding")
    with pytest.raises(BadSettings, match="--images are compared by people's captions"):
        choose.Config(out="x", images=["val2014"])
    with pytest.raises(BadSettings, match="neighbours"):
        choose.Config(out="x", neighbours=[0])
    with pytest.raises(BadSettings, match="--teraflops"):
        config_of(CONFIGS[0], teraflops=0)
    missing = config_of(
        CONFIGS[0], captions=str(file), language_model=str(tmp_path / "none"), out=str(tmp_path / "out")
    )
    with pytest.raises(ModelNotFound, match="none"):
        build.main(missing)
    with pytest.raises(BadData, match="nowhere"):
        build.main(replace(missing, images=[str(tmp_path / "nowhere")], plan=True))
    max(pictures.iterdir()).unlink()
    with pytest.raises(ImageNotFound):
        build.main(replace(missing, images=[str(pictures)], plan=True))
    assert not (tmp_path / "out").exists()


def test_without_pictures_the_evidence_is_chosen_on_the_memory(tmp_path):
    choose = recipe("choose_decoding")
    captioner = tiny.captioner()
    captioner.save_pretrained(tmp_path / "base")
    config = choose.Config(base=str(tmp_path / "base"), out=str(tmp_path / "out"), dtype="float32", cpu=True)
    with pytest.raises(BadSettings, match=r"with a memory, found .*assemble_captioner\.py makes one"):
        choose.main(config)
    texts = [f"{subject} {doing}" for subject in SUBJECTS for doing in DOINGS]
    captioner.memory = CaptionMemory.from_texts(captioner.scorer, texts)
    captioner.decoding = BeamMagicSearch(rerank_weight=3.0, neighbours=7)
    captioner.save_pretrained(tmp_path / "base")
    choose.main(config)
    chosen = load_captioner(tmp_path / "out").decoding
    assert chosen == tune_decoding(captioner.decoding, captioner.memory, seed=config.seed)
    assert chosen.rerank_weight == 3.0
    assert chosen.neighbours != 7


def test_published_rows_are_those_of_papers():
    published = {row.system: row.figures[4] for row in script("published").PUBLISHED if row.dataset == "coco"}
    assert [published[name] for name in ("MAGIC", "DeCap", "ViECap", "MeaCap", "IFCap")] == [
        49.3, 91.2, 92.9, 95.4, 108.0
    ]  # fmt: skip
    assert published["CLIPRe, the index whole"] == 53.4
    assert (EVAL / "published.py").is_file()


@pytest.mark.slow
def test_all_of_it_from_a_hub_killed_gone_on_with_and_done_once(tmp_path):
    file, pictures = karpathy_set(tmp_path)
    root, out = tmp_path / "hub", tmp_path / "runs" / "tiny"
    tiny.language_model(tiny.word_tokenizer()).save_pretrained(root / "me" / "words")
    tiny.scorer().save_pretrained(root / "me" / "towers")
    options = {**TINY, "captions": str(file), "images": [str(pictures)], "out": str(out), "published": "coco"}
    command = [sys.executable, str(RECIPES / "build_strong.py"), *arguments_of(options)]
    with stand_in_hub(root) as (address, served):
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))},
            "HF_HOME": str(tmp_path / "home"),
            "HF_ENDPOINT": address,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "PATH": "",  # without Java, which METEOR would wait for
        }
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as first:
            while first.poll() is None and not (out / "soft_prompt" / "training").exists():
                time.sleep(0.02)
            first.send_signal(signal.SIGTERM)
        assert first.returncode == 143
        assert not (out / "captioner").exists()
        assert {"me/words/model.safetensors", "me/towers/open_clip_model.safetensors"} <= set(served)

        def again() -> subprocess.CompletedProcess[str]:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
            return done

        second, fetched = again(), len(served)
        stages = ["language_model", "memory", "soft_prompt", "captioner", "evaluation"]
        for stage in stages[:2]:
            assert f"== {stage}: done before" in second.stderr
        for stage in stages[2:]:
            assert f"== {stage}: done in" in second.stderr
        third = again()
        assert all(f"== {stage}: done before" in third.stderr for stage in stages)
        assert second.stdout.endswith(third.stdout)
        assert third.stdout.startswith("magicap caption photo.jpg --preset ")
        assert not [name for name in served[fetched:] if name.endswith(".safetensors")]
    rows = (out / "evaluation" / "published.txt").read_text()
    for system, figure in (("MAGIC", "49.3"), ("IFCap", "108.0"), ("MeaCap", "95.4")):
        assert any(line.startswith(system) and figure in line for line in rows.splitlines())
    assert [line for line in rows.splitlines() if line.startswith("tiny ") and "ours; " in line]
    assert "none of them was run here" in rows
    captioner = load_captioner(out / "captioner")
    assert captioner.decoding.soft_prompt
    assert len(captioner.memory) > 16
    tried = [
        json.loads(line) for line in (out / "captioner" / "dev" / "figures.jsonl").read_text().splitlines()
    ]
    best = max(tried, key=lambda row: row["cider_d"])
    assert best["temperature"] == asdict(captioner.decoding)["temperature"]
    assert len(captioner.caption(str(next(pictures.iterdir())))) > 3
