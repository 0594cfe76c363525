"""Processes take tasks in turn; one that dies fails its own task only."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from small_studies import small

from snrouter.errors import SpecError
from snrouter.study.hands import Hands
from snrouter.study.progress import Told
from snrouter.study.tasks import Task


@dataclass(frozen=True)
class Say(Task):
    """Tells its process, or ends it, or fails."""

    say: str = "well"

    def work(self) -> dict[str, object]:
        if self.say == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.say == "fail":
            raise SpecError("no\nluck")
        return {"process": os.getpid(), "threads": torch.get_num_threads(), "said": self.say}


def tasks(folder: Path, *said: str) -> list[Say]:
    document = small(folder)
    return [Say(f"task {i}", document, folder / str(i), "key", say) for i, say in enumerate(said)]


@pytest.mark.parametrize("count", [1, 2])
def test_every_task_is_done_and_what_fails_is_told(tmp_path: Path, count: int) -> None:
    todo = tasks(tmp_path, "well", "fail", "well", *(["die", "well", "well"] if count > 1 else []))
    with Hands(count) as hands, Told(len(todo), False) as told:
        errors = hands.carry_out(todo, told)
        assert hands.carry_out([], told) == {}
    assert errors.pop(todo[1].receipt) == "no luck"
    if count > 1:
        assert "ended by SIGKILL" in errors.pop(todo[3].receipt)
    assert not errors
    made = [one for task in todo if (one := task.made())]
    processes = {one["made"]["process"] for one in made}
    assert len(made) == len(todo) - (2 if count > 1 else 1)
    assert all(one["made"]["threads"] == 1 for one in made)
    assert (os.getpid() in processes) == (count == 1)


def test_a_receipt_is_of_one_key(tmp_path: Path) -> None:
    (task,) = tasks(tmp_path, "well")
    assert task.made() is None
    task.carry_out()
    assert task.made()["made"]["said"] == "well"
    assert Say(task.what, task.document, task.folder, "another").made() is None
