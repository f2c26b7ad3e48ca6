"""Loading models from the hub, run for real against a stand-in on loopback, in a fresh process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import open_clip
import pytest
import tiny
import torch
from hub import COMMIT, stand_in_hub
from repository import ROOT
from transformers import GPT2Config, GPT2LMHeadModel

CAPTION = """
import json, sys
import numpy as np
from magicap import Captioner
captioner = Captioner.from_pretrained(sys.argv[1], revision=json.loads(sys.argv[2]), memory=0)
picture = np.zeros((50, 70, 3), np.uint8)
picture[:, :35] = (250, 120, 10)
caption = captioner.caption(picture)
print(json.dumps({
    "ids": [step.token_id for step in caption.steps],
    "decoding": [captioner.decoding.top_k, captioner.decoding.max_new_tokens],
    "cached_tower": captioner.scorer.text_tower is not None,
    "quick_gelu": "QuickGELU" in repr(captioner.scorer.model),
    "scale": captioner.scorer.logit_scale,
}))
"""

FROM_PARTS = """
from magicap import Captioner
commits = {"someone/eyes": "gone"}
Captioner.from_parts("someone/words", "hf-hub:someone/eyes", memory=0, revision=commits)
"""


def run(program: str, *arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))
    }
    clean |= {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], env=clean, capture_output=True, text=True, timeout=500
    )


def save_published_language_model(folder: Path, model: GPT2LMHeadModel, bpe: Path) -> None:
    """As repositories of 2022 look: a .bin, vocab.json and merges.txt, and the two added tokens apart."""
    folder.mkdir(parents=True)
    model.config.architectures = ["GPT2LMHeadModel"]
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(bpe / name, folder / name)
    size = model.config.vocab_size
    added = {"<-start_of_text->": size - 2, "<-pad->": size - 1}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
        )
    )


@pytest.fixture(scope="module")
def bpe() -> Path:
    if (folder := tiny.gpt2_bpe()) is None:
        pytest.skip("data: GPT-2's vocabulary is not beside MAGICAP_DATA")
    return folder


@pytest.mark.slow
def test_a_folder_of_the_hub_is_fetched_loaded_and_used(tmp_path):
    """Small models of the same classes: safetensors and a tokenizer.json, open_clip's hf-hub layout."""
    hub, home = tmp_path / "hub", tmp_path / "home"
    captioner = tiny.captioner(5, custom_text=True)
    captioner.language_model.save_pretrained(hub / "someone" / "words")
    captioner.scorer.save_pretrained(hub / "someone" / "eyes")
    program = (
        "from magicap.captioners.presets import PRESETS, Preset\n"
        "from magicap import MagicSearch\n"
        "search = MagicSearch(8, 0.2, 1.0, 8)\n"
        "PRESETS['tiny'] = Preset('', '', None, 'someone/words', 'hf-hub:someone/eyes', None, search)\n"
    ) + CAPTION
    with stand_in_hub(hub) as (address, served):
        first = run(program, "tiny", "null", home=home, HF_ENDPOINT=address)
        assert first.returncode == 0, first.stderr[-3000:]
        assert "someone/words/model.safetensors" in served
        assert "someone/eyes/open_clip_model.safetensors" in served
    again = run(program, "tiny", "null", home=home, HF_HUB_OFFLINE="1")  # the hub is gone, the cache serves
    assert again.returncode == 0, again.stderr[-3000:]
    assert json.loads(first.stdout) == json.loads(again.stdout)

    import numpy as np

    picture = np.zeros((50, 70, 3), np.uint8)
    picture[:, :35] = (250, 120, 10)
    here = [step.token_id for step in captioner.caption(picture).steps]
    assert json.loads(first.stdout)["ids"] == here


@pytest.mark.slow
def test_commits_of_a_preset_are_loaded(tmp_path):
    hub, revisions = tmp_path / "hub", []
    captioner = tiny.captioner(5, custom_text=True)
    captioner.language_model.save_pretrained(hub / "someone" / "words")
    captioner.scorer.save_pretrained(hub / "someone" / "eyes")
    program = (
        "from hub import COMMIT\n"
        "from magicap.captioners.presets import PRESETS, Preset\n"
        "words, eyes = 'someone/words', 'someone/eyes'\n"
        "commits = {words: COMMIT, eyes: COMMIT}\n"
        "named = {'downloads': (words, eyes), 'revision': commits}\n"
        "PRESETS['tiny'] = Preset('', '', None, words, f'hf-hub:{eyes}', **named)\n"
    ) + CAPTION
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    with stand_in_hub(hub, revisions) as (address, _):
        done = run(program, "tiny", "null", home=tmp_path / "home", HF_ENDPOINT=address, PYTHONPATH=path)
        assert done.returncode == 0, done.stderr[-3000:]
        assert set(revisions) == {COMMIT}
        for part in ("words", "eyes"):
            gone = json.dumps({f"someone/{part}": "gone"})
            done = run(program, "tiny", gone, home=tmp_path / "home", HF_ENDPOINT=address, PYTHONPATH=path)
            assert "ModelNotFound" in done.stderr
            assert f"hf download someone/{part} --revision gone" in done.stderr
        done = run(FROM_PARTS, home=tmp_path / "parts", HF_ENDPOINT=address)
        assert "ModelNotFound" in done.stderr
        assert "someone/eyes" in done.stderr


@pytest.fixture(scope="module")
def published(bpe, tmp_path_factory) -> Path:
    """GPT-2 small, which likes to end its sentences, and CLIP ViT-B/32, random, in their repositories."""
    from safetensors.torch import save_file

    hub = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    language_model = GPT2LMHeadModel(GPT2Config(vocab_size=50259))
    with (
        torch.no_grad()
    ):  # a direction that all last hidden states share, and the end token's embedding along it
        language_model.transformer.ln_f.bias.fill_(0.5)
        language_model.transformer.wte.weight[50256] = 8 / 0.5 / 768
    save_published_language_model(hub / "cambridgeltl" / "magic_mscoco", language_model.half(), bpe)
    scorer = open_clip.create_model("ViT-B-32", force_quick_gelu=True).half()
    folder = hub / "timm" / "vit_base_patch32_clip_224.openai"
    folder.mkdir(parents=True)
    save_file(scorer.state_dict(), folder / "open_clip_model.safetensors")
    return hub


@pytest.mark.slow
@pytest.mark.parametrize("commit", [None, COMMIT])
def test_the_published_preset_at_its_full_size(tmp_path, published, commit):
    home = tmp_path / "home"
    repositories = "cambridgeltl/magic_mscoco", "timm/vit_base_patch32_clip_224.openai"
    revision = commit and dict.fromkeys(repositories, commit)
    with stand_in_hub(published, revisions := []) as (address, served):
        done = run(CAPTION, "coco", json.dumps(revision), home=home, HF_ENDPOINT=address)
    assert done.returncode == 0, done.stderr[-3000:]
    assert commit is None or set(revisions) == {COMMIT}
    assert "cambridgeltl/magic_mscoco/pytorch_model.bin" in served
    assert "timm/vit_base_patch32_clip_224.openai/open_clip_model.safetensors" in served
    result = json.loads(done.stdout)
    assert result["quick_gelu"]
    assert result["cached_tower"]
    assert result["decoding"] == [45, 15]
    assert 1 <= len(result["ids"]) <= 15


@pytest.mark.slow
def test_the_published_pair_gets_a_memory_once_and_a_stopped_one_goes_on(tmp_path, published):
    sample, cache = str(ROOT / "docs" / "sample.jpg"), tmp_path / "cache"
    command = [sys.executable, "-m", "magicap", "caption", sample, "--preset", "coco", "--memory", "300"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    with stand_in_hub(published) as (address, _):
        environment = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": address, "MAGICAP_CACHE": str(cache)}
        stopped = subprocess.Popen(command, env=clean | environment, stderr=subprocess.PIPE)
        while not (kept := list(cache.rglob("*.safetensors"))):
            assert stopped.poll() is None, stopped.stderr.read()
            time.sleep(0.05)
        stopped.kill()
        stopped.communicate()
        before = [(path, path.stat().st_mtime_ns) for path in kept]

        def captioned() -> subprocess.CompletedProcess[str]:
            done = subprocess.run(
                command, env=clean | environment, capture_output=True, text=True, timeout=500
            )
            assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stderr
            return done

        first = captioned()
        assert "no memory of 300 captions" in first.stderr
        assert [(path, path.stat().st_mtime_ns) for path in kept] == before
        again = captioned()
        assert (again.stdout, "no memory" in again.stderr) == (first.stdout, False)


@pytest.mark.slow
def test_offline_and_uncached_one_sentence_says_what_to_download(tmp_path):
    program = "import sys; from magicap.cli import main; sys.exit(main(['caption', *sys.argv[1:]]))"
    picture = tmp_path / "a.png"
    from PIL import Image

    Image.new("RGB", (30, 30)).save(picture)
    done = run(program, str(picture), "--preset", "coco", home=tmp_path / "home", HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for word in ("coco", "hf download cambridgeltl/magic_mscoco", "timm/vit_base_patch32_clip_224.openai"):
        assert word in lines[0]


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    """A .bin with more than tensors in it is never executed."""
    captioner = tiny.captioner(0)
    captioner.save_pretrained(tmp_path / "it")
    weights = tmp_path / "it" / "language_model" / "model.safetensors"
    weights.unlink()

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "pwned"),))

    torch.save({"transformer.wte.weight": Evil()}, weights.with_name("pytorch_model.bin"))
    from magicap import BadModel, Captioner

    with pytest.raises(BadModel, match="pickle"):
        Captioner.from_pretrained(tmp_path / "it")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.slow
def test_a_broken_torchvision_is_named_with_its_fix(tmp_path):
    (tmp_path / "torchvision").mkdir()
    broken = 'raise RuntimeError("operator torchvision::nms does not exist")'
    (tmp_path / "torchvision/__init__.py").write_text(broken)
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from magicap.cli import main\n"
        "for preset in sys.argv[2:]:\n"
        "    assert main(['caption', sys.argv[1], '--preset', preset]) == 2"
    )
    captioner = tiny.captioner(0)
    captioner.save_pretrained(tmp_path / "it")  # its image tower is open_clip's own, which needs torchvision
    sample = ROOT / "docs/sample.jpg"
    presets = (str(tmp_path / "it"), "cnn-lstm")
    done = run(program, str(sample), *presets, home=tmp_path / "home", HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout) == (0, "")
    lines = done.stderr.splitlines()
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from magicap.cli import main\n"
        "from magicap import Captioner, MissingPackage\n"
        "assert main(['caption', sys.argv[1]]) == 0\n"
        "try: Captioner.from_pretrained().scorer.model\n"
        "except MissingPackage as error: print('magicap:', error, file=sys.stderr)"
    )
    done = run(program, str(sample), home=tmp_path / "home", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("A man ")  # the embedded one needs it only for open_clip's own model
    lines += done.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("magicap: torchvision is missing or does not fit torch 2.") for line in lines)
    assert all("pip install --force-reinstall torch torchvision" in line for line in lines)
