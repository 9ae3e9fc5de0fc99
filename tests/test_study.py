"""Many runs: each once, side by side, whatever happens to the others; and the real thing once, as small as it comes."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from lrt.course.jobs import only_run
from lrt.study import pool as study
from lrt.study.cell import run_cell
from lrt.study.grid import Cell
from lrt.study.logs import differing
from lrt.study.pool import check_unfinished, finished, log_of, run_study

SMALL = Cell(
    "grpo", 0, ("reasoner",), weights=(1.0, 0.5), steps=1, pairs_per_step=2, num_generations=2, train_pairs=12,
    measure_every=2, measured_pairs=2, final_pairs=2, judges=(),
)

# Stands in for `python -m lrt.study.cell RUN_DIR LOG PID`: what it does depends on the cell's name.
FAKE = """#!/bin/sh
name=$(basename "$3")
events=$(dirname "$3")/events
echo "start $name $5" >>"$events"
case "$name" in
  bad.*) echo "its last words" >&2; exit 3 ;;
  endless.*) echo $$ >"$3/pid"; exec sleep 600 ;;
  both.*)  # goes on when two have started
    n=0
    while [ "$(grep -c '^start both' "$events")" -lt 2 ]; do
      n=$((n + 1)); [ $n -lt 600 ] || exit 4
      sleep 0.1
    done ;;
esac
env >"$(dirname "$3")/environment.$name"
mkdir -p "$(dirname "$4")"
echo "{\\"cell\\": $(tr -d '\\n' <"$3/cell.json")}" >"$4"
echo "end $name" >>"$events"
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Runs of cells that compute nothing; the folder, whose `events` say what was started and what came to its end."""
    script = tmp_path / "fake"
    script.write_text(FAKE)
    script.chmod(0o755)
    monkeypatch.setattr(study.sys, "executable", str(script))
    monkeypatch.setattr(study, "POLL", 0.05)
    return tmp_path


def cells(*names):
    return [replace(SMALL, method=name, seed=seed) for name, _, seed in (name.partition(".s") for name in names)
            for seed in [int(seed)]]


def run(home, todo, **options):
    return run_study(todo, home / "runs", home / "logs", **{"progress": lambda line: None, **options})


def events(home):
    path = home / "runs" / "events"
    return [tuple(line.split()[:2]) for line in path.read_text().splitlines()] if path.exists() else []


def pid_of(endless, home):
    """The process of a cell that never ends, which may be slow to start."""
    path = home / "runs" / endless.name / "pid"
    while not (path.exists() and path.read_text()):
        time.sleep(0.05)
    return int(path.read_text())


# --- what is finished, and what is something else


def wrote(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_cell_is_finished_when_its_log_is_there(tmp_path):
    assert not finished(SMALL, tmp_path / "nowhere")
    assert log_of(SMALL, tmp_path) == tmp_path / "grpo.s0.jsonl"
    wrote(log_of(SMALL, tmp_path), f'{{"cell": {SMALL.to_json()}}}\n')
    assert finished(SMALL, tmp_path) and not finished(replace(SMALL, seed=1), tmp_path)


def test_a_log_of_other_settings_is_refused(tmp_path):
    wrote(log_of(SMALL, tmp_path), f'{{"cell": {SMALL.to_json()}}}\n')
    with pytest.raises(ValueError, match=r"grpo\.s0\.jsonl is of a run with other settings \(dial, lr\)"):
        finished(replace(SMALL, lr=0.5, dial=0.5), tmp_path)


@pytest.mark.parametrize("first", ["", "{", '{"step": 1}', '{"cell": {"method": "grpo"}}', '{"cell": 3}', "[]", "3",
                                   '{"cell": {"method": "grpo", "seed": 0, "bases": [], "unknown": 1}}'])
def test_a_log_that_does_not_say_whose_it_is(tmp_path, first):
    wrote(log_of(SMALL, tmp_path), first + "\n")
    with pytest.raises(ValueError, match=r"grpo\.s0\.jsonl, line 1"):
        finished(SMALL, tmp_path)


def test_an_unfinished_run_of_other_settings_is_refused(tmp_path):
    check_unfinished(SMALL, tmp_path / "nothing there")
    wrote(tmp_path / "cell.json", SMALL.to_json())
    check_unfinished(SMALL, tmp_path)
    with pytest.raises(ValueError, match="holds an unfinished run with other settings"):
        check_unfinished(replace(SMALL, steps=2), tmp_path)


def test_both_are_refused_before_anything_is_run(fake):
    other, unfinished = cells("other.s0", "unfinished.s0")
    wrote(log_of(other, fake / "logs"), f'{{"cell": {replace(other, lr=0.5).to_json()}}}\n')
    with pytest.raises(ValueError, match="other settings"):
        run(fake, [SMALL, other])
    wrote(fake / "runs" / unfinished.name / "cell.json", replace(unfinished, lr=0.5).to_json())
    with pytest.raises(ValueError, match="other settings"):
        run(fake, [SMALL, unfinished])
    assert events(fake) == []


# --- the pool


def test_every_cell_is_run_once_and_no_more_side_by_side_than_told(fake):
    todo, said = cells("a.s0", "b.s0", "a.s1", "b.s1", "a.s2"), []
    logs = run(fake, todo, jobs=2, progress=said.append)
    assert logs == [fake / "logs" / f"{cell.name}.jsonl" for cell in todo]
    # two that start together may say so in either order: that they start in order is seen below, one at a time
    assert sorted(name for what, name in events(fake) if what == "start") == sorted(cell.name for cell in todo)
    running, most = 0, 0
    for what, _ in events(fake):
        running += 1 if what == "start" else -1
        most = max(most, running)
    assert running == 0 and most <= 2
    assert sorted(line.split()[0] for line in said) == sorted(cell.name for cell in todo)
    assert not any((fake / "runs" / cell.name).exists() for cell in todo)  # only the logs are kept
    run(fake, [*todo, *cells("d.s0", "c.s0")], jobs=1)
    in_turn = [("start", "d.s0"), ("end", "d.s0"), ("start", "c.s0"), ("end", "c.s0")]
    assert events(fake)[10:] == in_turn  # in the order asked for; and what is finished is not run again
    assert run(fake, []) == []


def test_two_run_side_by_side(fake):
    run(fake, cells("both.s0", "both.s1"), jobs=2)  # each waits until the other has started
    assert [what for what, _ in events(fake)] == ["start", "start", "end", "end"]


def test_a_run_that_fails_is_named_and_stops_no_other(fake):
    todo = cells("bad.s0", "a.s0", "bad.s1", "a.s1")
    with pytest.raises(RuntimeError) as failed:
        run(fake, todo, jobs=1)
    assert str(failed.value).startswith("2 of 4 runs failed")
    for name in ("bad.s0", "bad.s1"):
        path = fake / "runs" / name / "errors.txt"
        assert str(path) in str(failed.value) and path.read_text() == "its last words\n"
        assert not (fake / "logs" / f"{name}.jsonl").exists()
    assert "a.s" not in str(failed.value) and finished(todo[1], fake / "logs") and finished(todo[3], fake / "logs")
    with pytest.raises(RuntimeError, match="2 of 2 runs failed"):
        run(fake, todo)


def test_each_process_is_offline_has_one_thread_and_knows_its_parent(fake, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    run(fake, cells("a.s0"))
    said = dict(line.partition("=")[::2] for line in
                (fake / "runs" / "environment.a.s0").read_text().splitlines())
    assert said["OMP_NUM_THREADS"] == said["MKL_NUM_THREADS"] == said["HF_HUB_OFFLINE"] == "1"
    assert Path(said["PYTHONPATH"], "lrt", "study", "cell.py").exists()
    assert (fake / "runs" / "events").read_text().splitlines()[0] == f"start a.s0 {os.getpid()}"


def test_an_interrupted_study_leaves_no_process_and_goes_on(fake):
    endless, a = cells("endless.s0", "a.s0")
    script, pids = Path(study.sys.executable), []

    def interrupt(line):
        pids.append(pid_of(endless, fake))
        assert psutil.pid_exists(pids[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(fake, [endless, a], jobs=2, progress=interrupt)
    assert not psutil.pid_exists(pids[0])
    assert json.loads((fake / "runs" / "endless.s0" / "cell.json").read_text()) == json.loads(endless.to_json())
    script.write_text(FAKE.replace("endless.*", "no.*"))  # this time it comes to its end
    run(fake, [endless, a])
    assert events(fake)[-2:] == [("start", "endless.s0"), ("end", "endless.s0")]


def test_two_studies_do_not_share_a_folder(fake):
    refused = []

    def second(line):
        with pytest.raises(ValueError, match="another run is writing") as error:
            run(fake, cells("b.s0"))
        refused.append(error)

    run(fake, cells("a.s0"), progress=second)
    assert len(refused) == 1 and ("start", "b.s0") not in events(fake)
    run(fake, cells("b.s0"))


def test_a_process_that_outlives_its_study_keeps_the_folder(fake):
    runs, (endless,) = fake / "runs", cells("endless.s0")
    runs.mkdir()
    with only_run(runs) as lock:
        pool = study._Pool([endless], runs, fake / "logs", 1, print, lock)
        pool._start(pool.waiting.pop())
        pool.bar.close()
    (_, process, _), = pool.running.values()
    assert pid_of(endless, fake) == process.pid
    try:
        with pytest.raises(ValueError, match="another run is writing"):
            run(fake, cells("a.s0"))
    finally:
        process.kill()
        process.wait()
    run(fake, cells("a.s0"))


def test_the_bar_begins_where_an_interrupted_run_goes_on_and_not_where_its_log_ended(fake, monkeypatch):
    (cell,) = cells("endless.s0")
    out = fake / "runs" / cell.name
    log = wrote(out / "log.jsonl", "".join(f'{{"step": {n}}}\n' for n in range(1, 31)))
    os.utime(log, (1, 1))
    with only_run(fake / "runs") as lock:
        pool = study._Pool([cell], fake / "runs", fake / "logs", 1, print, lock)
    assert pool.bar.n == 0  # no checkpoint: from the beginning
    monkeypatch.setattr(study, "last_checkpoint", lambda path: (path / "checkpoint-25", 25))
    assert study.resumed_at(cell, out) == 25
    since = time.time() - 60
    assert pool._steps(cell.name, since) == 0
    log.write_text('{"step": 1}\n{"step": 2}\n')
    assert pool._steps(cell.name, since) == 2
    pool.bar.close()
    (out / "done.json").write_text("{}")
    assert study.resumed_at(replace(cell, steps=300), out) == 300


# --- the real thing


@pytest.mark.parametrize("missing", [{"bases": ("not-pretrained",)}, {"listeners": ("not-pretrained",)},
                                     {"judges": ("not-pretrained",)}])
def test_a_model_that_is_not_there_is_told_before_anything_runs(fake, missing):
    with pytest.raises(ValueError, match="no model 'not-pretrained'"):
        run(fake, [*cells("a.s0"), replace(SMALL, method="b", **missing)])
    assert not events(fake)


def test_two_cells_in_processes_of_their_own_and_one_that_cannot_be(tmp_path):
    good = replace(SMALL, method="rule", reward="rule", weights=(1.0, 0.5, 0.5))
    bad = replace(SMALL, method="listened", reward="listener", listeners=("nobody/at-all",), weights=good.weights)
    with pytest.raises(RuntimeError, match="1 of 3 runs failed") as failed:
        run(tmp_path, [SMALL, bad, good], jobs=2)
    errors = tmp_path / "runs" / "listened.s0" / "errors.txt"
    assert str(errors) in str(failed.value) and "nobody/at-all" in errors.read_text()
    assert sorted(p.name for p in (tmp_path / "logs").iterdir()) == ["grpo.s0.jsonl", "rule.s0.jsonl"]
    before = {p: p.read_bytes() for p in (tmp_path / "logs").iterdir()}
    assert run(tmp_path, [SMALL, good]) == [log_of(SMALL, tmp_path / "logs"), log_of(good, tmp_path / "logs")]
    assert {p: p.read_bytes() for p in (tmp_path / "logs").iterdir()} == before

    run_cell(SMALL, tmp_path / "here", tmp_path / "here.jsonl", lambda *_: None)  # the same in this process
    assert differing(tmp_path / "here.jsonl", log_of(SMALL, tmp_path / "logs")) == []
