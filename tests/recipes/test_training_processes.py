"""Several processes learn what one process with all their rows learns."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from forked import in_processes
from torch.nn.parallel import DistributedDataParallel

from magicap import BadSettings
from magicap.errors import TrainingFailed, TrainingStopped
from magicap.training import processes
from magicap.training.batches import Epoch, even_parts, shuffled
from magicap.training.loop import fit
from magicap.training.losses import info_nce
from magicap.training.objectives.base import Objective
from magicap.training.options import LoopConfig, RunOptions, seconds_of
from magicap.training.phases import load_or_write

# ---- rows and means of all ----


def unit(rows: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed)), dim=1)


OWNER = torch.tensor([0, 0, 1, 2, 2, 2, 3])
PART = {0: (slice(0, 2), slice(0, 3)), 1: (slice(2, 4), slice(3, 7))}  # pictures and captions of a process


class Cosines(torch.nn.Module):
    """InfoNCE of two projections, in whichever processes the rows are."""

    def __init__(self):
        super().__init__()
        self.image = torch.nn.Linear(5, 5, bias=False)
        self.text = torch.nn.Linear(5, 5, bias=False)
        for number, layer in enumerate((self.image, self.text)):
            layer.weight.data = torch.randn(5, 5, generator=torch.Generator().manual_seed(number))

    def forward(self, images, texts, owner):
        rows = processes.gather_rows(self.image(images))
        captions = processes.gather_rows(self.text(texts))
        return info_nce(rows, captions, processes.gather_owners(owner, len(images)), 3.0)


def loss_and_gradients(images, texts, owner):
    model = Cosines()
    wrapped = DistributedDataParallel(model) if processes.count() > 1 else model
    loss = wrapped(images, texts, owner)
    loss.backward()
    return loss.item(), model.image.weight.grad.tolist(), model.text.weight.grad.tolist()


def own_share():
    pictures, captions = PART[processes.number()]
    owner = OWNER[captions] - pictures.start
    return loss_and_gradients(unit(4, 1)[pictures], unit(7, 2)[captions], owner)


def test_negatives_are_those_of_all_processes():
    """Loss and gradients, with other many captions in either process."""
    loss, image, text = loss_and_gradients(unit(4, 1), unit(7, 2), OWNER)
    for shared in in_processes(2, own_share):
        assert shared[0] == pytest.approx(loss, abs=1e-6)
        assert torch.allclose(torch.tensor(shared[1]), torch.tensor(image), atol=1e-6)
        assert torch.allclose(torch.tensor(shared[2]), torch.tensor(text), atol=1e-6)


def shares_and_rows():
    number = processes.number()
    mean, items = ((1.0, 2), (4.0, 6))[number]
    share = processes.share_of_mean(torch.tensor(mean), items).item()
    padded = processes.gather_padded(torch.ones(1, 2 + number, 3)).shape
    return share, list(padded), processes.from_first(f"of {number}"), processes.count()


def test_a_mean_over_all_items_is_the_average_of_the_shares():
    results = in_processes(2, shares_and_rows)
    assert sum(share for share, *_ in results) / 2 == pytest.approx((1.0 * 2 + 4.0 * 6) / 8)
    for _, shape, value, count in results:
        assert (shape, value, count) == ([2, 3, 3], "of 0", 2)
    assert processes.count() == 1
    assert processes.share_of_mean(torch.tensor(7.0), 3) == 7


def kept(folder: Path) -> list[str]:
    return load_or_write(folder / "texts.json", lambda: [f"by {processes.number()}"])


def test_what_one_process_computes_the_others_read(tmp_path):
    assert in_processes(2, kept, tmp_path) == [["by 0"], ["by 0"]]


# ---- the loop ----


class Regression(Objective):
    def __init__(self, weight: float = 0.5):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([weight, -weight, 0.1]))
        self.spoiled = False

    def forward(self, batch):
        mean = (batch["x"] @ self.weight - batch["x"].sum(dim=1)).square().mean()
        share = processes.share_of_mean(mean, len(batch["x"]))
        return share * math.nan if self.spoiled else share


def train(folder: Path, size: int, options: RunOptions, spoil: bool = False) -> list[float]:
    """The loss of every step; one process's is no number, if asked."""
    data = torch.randn(22, 3, generator=torch.Generator().manual_seed(0))
    objective = Regression()
    objective.spoiled = spoil and processes.number() == 1
    fit(
        objective,
        [{"params": list(objective.parameters()), "lr": 0.05, "weight_decay": 0.0}],
        epoch=lambda epoch: Epoch(data, shuffled(22, size, epoch), lambda rows: {"x": torch.stack(rows)}),
        validate=lambda trained: {"score": -trained.weight.norm().item()},
        save_best=lambda _: (folder / "best").write_text("saved by the first alone\n"),
        folder=folder,
        config=LoopConfig(epochs=4, run=options),
    )
    return losses(folder)


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").open()]
    return [row["loss"] for row in rows if "loss" in row]


def options(**changes) -> RunOptions:
    return RunOptions(cpu=True, log_every=1, **changes)


def test_two_processes_take_the_steps_of_one(tmp_path):
    """Steps have odd numbers of rows, so that the processes have different many."""
    alone = train(tmp_path / "one", 8, options())
    assert len(alone) == 12
    for found in in_processes(2, train, tmp_path / "two", 8, options()):
        assert found == pytest.approx(alone, abs=1e-6)
    assert (tmp_path / "two" / "best").is_file()


def test_micro_batches_of_uneven_numbers_make_the_step_of_all(tmp_path):
    alone = train(tmp_path / "one", 8, options())
    assert train(tmp_path / "accumulated", 8, options(gradient_accumulation=3)) == pytest.approx(
        alone, abs=1e-6
    )
    (found, _) = in_processes(2, train, tmp_path / "both", 8, options(gradient_accumulation=2))
    assert found == pytest.approx(alone, abs=1e-6)


def test_a_loss_that_is_no_number_in_one_process_ends_all(tmp_path):
    results = in_processes(2, train, tmp_path, 8, options(), True)
    assert [type(result) for result in results] == [TrainingFailed] * 2


def test_a_run_resumes_in_as_many_processes_as_it_began_in(tmp_path):
    in_processes(2, train, tmp_path, 8, options())
    with pytest.raises(BadSettings, match="expected 2 processes as when this run began, found 1"):
        train(tmp_path, 8, options())


def test_fewer_rows_than_processes_are_refused():
    epoch = Epoch(range(3), [[0], [1, 2]], list)
    with pytest.raises(BadSettings, match=r"at least 2 rows a step, .* found 1; use fewer"):
        epoch.batches(processes=2)
    assert list(epoch.batches(done=1, process=1, processes=2)) == [[2]]


# ---- time ----


def stopped(folder: Path) -> str:
    """A run whose time is up before its first step, and then one that ends."""
    with pytest.raises(TrainingStopped) as error:
        train(folder, 8, options(max_time="0.001s"))
    assert error.value.exit_code == 0
    return str(error.value)


def test_a_run_stops_when_its_time_is_up_and_goes_on(tmp_path):
    alone = train(tmp_path / "one", 8, options())
    message = stopped(tmp_path / "stopped")
    assert message.startswith(
        "training stopped after step 0 of 12, since --max_time 0.001s is over; the same"
    )
    assert train(tmp_path / "stopped", 8, options()) == pytest.approx(alone)
    assert in_processes(2, stopped, tmp_path / "two") == [message] * 2


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("45m", 2700), ("1h30m", 5400), ("2", 120), ("1.5h", 5400)]
)
def test_times_are_read(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5 m", "0s", "-3m", "1h x", "m5"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(BadSettings, match="90s, 45m or 1h30m, found"):
        RunOptions(max_time=text)


def interrupted(folder: Path) -> str:
    class Interrupting(Regression):
        def forward(self, batch):
            if processes.number() == processes.count() - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(batch)

    objective = Interrupting()
    data = torch.ones(8, 3)
    with pytest.raises(
        TrainingStopped, match=r"stopped after step 1 of 4, since it was asked to end"
    ) as error:
        fit(
            objective,
            [{"params": list(objective.parameters()), "lr": 0.05, "weight_decay": 0.0}],
            epoch=lambda _: Epoch(data, even_parts(range(8), 2), lambda rows: {"x": torch.stack(rows)}),
            validate=lambda _: {"score": 0.0},
            save_best=lambda _: None,
            folder=folder,
            config=LoopConfig(epochs=1, run=options()),
        )
    return f"{error.value.exit_code} {(folder / 'checkpoint').is_dir()}"


def test_a_signal_to_one_process_stops_all_after_the_step(tmp_path):
    assert interrupted(tmp_path / "one") == "143 True"
    assert in_processes(2, interrupted, tmp_path / "two") == ["143 True"] * 2
