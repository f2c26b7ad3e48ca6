"""Files that are written: who may read them."""

from __future__ import annotations

import os

import pytest
import tiny


def modes(folder) -> set[str]:
    """Permissions of the weights in a folder."""
    return {oct(file.stat().st_mode & 0o777) for file in folder.rglob("*.safetensors")}


@pytest.mark.parametrize(("folder_mode", "file_mode"), [(0o750, 0o640), (0o755, 0o644), (0o700, 0o600)])
def test_who_may_read_a_folder_may_read_the_supervised_weights_in_it(tmp_path, folder_mode, file_mode):
    tmp_path.chmod(folder_mode)
    tiny.supervised().network.save_pretrained(tmp_path)
    assert modes(tmp_path) == {oct(file_mode)}


def test_the_group_that_may_read_a_saved_supervised_captioner_may_read_its_weights(tmp_path):
    before = os.umask(0o027)
    try:
        tiny.supervised().save_pretrained(tmp_path / "captioner")
    finally:
        os.umask(before)
    assert oct((tmp_path / "captioner").stat().st_mode & 0o777) == "0o750"
    assert modes(tmp_path / "captioner") == {"0o640"}
