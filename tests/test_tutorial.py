"""The main job: goes on after a failure, refuses what it does not know, runs side by side, leaves nothing running."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lrt import stats
from lrt.course import jobs, progress, tutorial
from lrt.course.progress import Phases, Stage
from lrt.stats import Record

PARAMETERS = 'profile = "laptop"\nrun_dir = "runs"\nseed = 0'
COUNT = """
from pathlib import Path
out = Path(run_dir); out.mkdir(parents=True, exist_ok=True)
with open(out / f"{NAME}.runs", "a") as file: file.write("x")
"""


def notebook(path, code="", parameters=PARAMETERS, outputs=()):
    cells = [new_markdown_cell("# a notebook"), new_code_cell(parameters, metadata={"tags": ["parameters"]}),
             new_code_cell(f"NAME = {path.stem!r}" + COUNT + code, outputs=list(outputs))]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def runs(out, name):
    file = out / f"{name}.runs"
    return len(file.read_text()) if file.exists() else 0


def display():
    return progress.Display(io.StringIO(), every=0)


# --- whole runs, with notebooks that do next to nothing --------------------------------------------------------------


def test_goes_on_from_the_notebook_that_failed(tmp_path):
    out = tmp_path / "out"
    groups = [[notebook(tmp_path / "02_sft.ipynb")],
              [notebook(tmp_path / "05_contradictions.ipynb",
                        'if not (out / "mended").exists():\n    raise ValueError("on purpose")')]]
    with pytest.raises(tutorial.NotebookFailed) as failed:
        tutorial.run_notebooks(groups, "ci", out, display())
    said = str(failed.value)
    assert "05_contradictions failed" in said and "ValueError: on purpose" in said
    assert "cell [3]: NAME = " in said, "as numbered in the executed copy, after the injected parameters"
    assert str(out / "notebooks" / "05_contradictions.ipynb") in said and "\x1b" not in said
    assert len(said.splitlines()) < 15, "a few lines"
    assert (runs(out, "02_sft"), runs(out, "05_contradictions")) == (1, 1)

    (out / "mended").touch()
    shown = display()
    tutorial.run_notebooks(groups, "ci", out, shown)
    assert "02_sft: already done" in shown.stream.getvalue()
    assert (runs(out, "02_sft"), runs(out, "05_contradictions")) == (1, 2)
    executed = nbformat.read(out / "notebooks" / "05_contradictions.ipynb", as_version=4)
    injected = [c.source for c in executed.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert 'profile = "ci"' in injected[0] and out.as_posix() in injected[0]
    assert not list(out.glob("notebooks/*.log")), "logs of what went well are gone"

    tutorial.run_notebooks(groups, "ci", out, display())
    assert (runs(out, "02_sft"), runs(out, "05_contradictions")) == (1, 2), "nothing left to do"


def test_side_by_side_then_merged_into_one_page(tmp_path, capsys):
    out = tmp_path / "out"
    code = """
import os, time
from lrt.stats import Record, save_records
(out / f"{{NAME}}.began").touch()
end = time.time() + 240
while len(list(out.glob("*.began"))) < 2:
    assert time.time() < end, "the other one never ran beside this one"
    time.sleep(0.1)
value = {value} + seed / 100
save_records([Record({method!r}, "in_distribution", "accuracy", value, value - 0.1, value + 0.1, 40, seed)],
             out / "records" / f"{{NAME}}.json")
(out / f"{{NAME}}.env").write_text(" ".join(os.environ[name] for name in (
    "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "OMP_WAIT_POLICY")))
"""
    groups = [[notebook(tmp_path / f"{name}.ipynb", code.format(value=value, method=method))
               for name, value, method in (("03_grpo", 0.5, "grpo"), ("04_listener_rewards", 0.6, "grpo_listener"))]]
    page = tutorial.run("ci", out, groups, seed=3)
    assert [file.read_text() for file in out.glob("*.env")] == ["1 1 PASSIVE"] * 2, "one thread each, and offline"

    merged = stats.load_records(out / "results.json")
    assert [(r.method, r.value, r.seed) for r in merged] == [("grpo", 0.53, 3), ("grpo_listener", 0.63, 3)]
    assert set(json.loads((out / "results.json").read_text())[0]) == {
        "method", "split", "metric", "value", "low", "high", "n", "seed"}
    assert page == out / "index.html" and 'href="notebooks/03_grpo.ipynb"' in page.read_text()
    printed = capsys.readouterr().out
    assert str(page) in printed and "grpo_listener" in printed and "63" in printed and "one seed" in printed


@pytest.mark.parametrize(("unlucky", "ends_well"), [(1, True), (2, False)])
def test_a_kernel_whose_port_was_taken_is_started_once_more(tmp_path, monkeypatch, unlucky, ends_well):
    """What jupyter_client and the kernel print when another program binds a port between its choice and its use."""
    out, shown, begun, start = tmp_path / "out", display(), [], jobs.start
    words = ("zmq.error.ZMQError: Address already in use (addr='tcp://127.0.0.1:56905')",
             "RuntimeError: Kernel died before replying to kernel_info")

    def unlucky_start(path, executed, *rest):
        begun.append(path.stem)
        if len(begun) > unlucky:
            return start(path, executed, *rest)
        jobs.log_of(executed).write_text("\n".join(words))
        return jobs.Job(path, executed, subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"]), time.time())

    monkeypatch.setattr(jobs, "start", unlucky_start)
    groups = [[notebook(tmp_path / "01_data.ipynb")]]
    if ends_well:
        tutorial.run_notebooks(groups, "ci", out, shown)
    else:
        with pytest.raises(tutorial.NotebookFailed, match="Kernel died before replying"):
            tutorial.run_notebooks(groups, "ci", out, shown)
    assert begun == ["01_data"] * 2 and runs(out, "01_data") == ends_well
    assert "its kernel found a port taken; started again" in shown.stream.getvalue()


def test_an_unknown_parameter_fails_before_anything_runs(tmp_path):
    groups = [[notebook(tmp_path / "a.ipynb")], [notebook(tmp_path / "b.ipynb", parameters='profile = "laptop"')]]
    with pytest.raises(ValueError, match=r"b\.ipynb: no parameter run_dir; its parameters cell has profile"):
        tutorial.run_notebooks(groups, "ci", tmp_path / "out", display())
    with pytest.raises(ValueError, match=r"a\.ipynb: no parameter sede"):
        tutorial.run_notebooks(groups[:1], "ci", tmp_path / "out", display(), sede=1)
    with pytest.raises(ValueError, match="no profile 'big'"):
        tutorial.run_notebooks(groups[:1], "big", tmp_path / "out", display())
    with pytest.raises(ValueError, match="c.ipynb: no such notebook"):
        tutorial.run_notebooks([[tmp_path / "c.ipynb"]], "ci", tmp_path / "out", display())
    assert runs(tmp_path / "out", "a") == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing_running(tmp_path, number):
    path = notebook(tmp_path / "a.ipynb", '(out / "pid").write_text(str(__import__("os").getpid()))\n'
                                          '__import__("time").sleep(120)')
    out = tmp_path / "out"
    script = "import sys; from lrt.course import tutorial; tutorial.run_notebooks([[sys.argv[1]]], 'ci', sys.argv[2])"
    main = subprocess.Popen([sys.executable, "-c", script, str(path), str(out)], stderr=subprocess.PIPE,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    try:
        kernel = int(_wait_for(out / "pid", main))
        with pytest.raises(ValueError, match="another run is writing"), jobs.only_run(out):
            pass
        family = [psutil.Process(kernel), *psutil.Process(main.pid).children(recursive=True)]
        main.send_signal(number)
        main.communicate(timeout=60)
        assert main.returncode != 0
        assert psutil.wait_procs(family, timeout=5)[1] == [], "papermill and its kernel are gone"
        with jobs.only_run(out):
            pass  # and nobody holds the lock
    finally:
        if main.poll() is None:
            main.terminate()


def _wait_for(file, process, seconds=240):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if file.exists() and file.read_text():
            return file.read_text()
        time.sleep(0.1)
    raise AssertionError(process.communicate(timeout=5)[1].decode())


# --- what is finished ------------------------------------------------------------------------------------------------


def keys(tmp_path, **changes):
    sources = {"01_data": "a = 1", "02_sft": "b = 1", "05_contradictions": "c = 1"} | changes.pop("sources", {})
    outputs = changes.get("outputs", ())
    paths = [notebook(tmp_path / f"{name}.ipynb", code, outputs=outputs) for name, code in sources.items()]
    return tutorial.source_keys(paths, changes.get("given", {"profile": "ci"}))


def test_a_key_changes_with_the_source_the_parameters_and_what_it_builds_on(tmp_path, monkeypatch):
    before = keys(tmp_path)
    same = {name for name, key in keys(tmp_path, sources={"02_sft": "b = 2"}).items() if key == before[name]}
    assert same == {"01_data"}, "05 loads the model that 02 trains"
    same = {name for name, key in keys(tmp_path, sources={"01_data": "a = 2"}).items() if key == before[name]}
    assert same == {"02_sft", "05_contradictions"}, "nobody loads anything of 01"
    assert keys(tmp_path, outputs=[new_output("stream", text="hello")]) == before, "outputs do not count"
    assert not set(keys(tmp_path, given={"profile": "laptop"}).values()) & set(before.values())
    monkeypatch.setattr("lrt.__version__", "99")
    assert not set(keys(tmp_path).values()) & set(before.values())


def test_finished_is_what_ran_and_is_still_there(tmp_path):
    executed = tmp_path / "notebooks" / "a.ipynb"
    executed.parent.mkdir()
    executed.touch()
    stats.save_records([], tutorial.records_file(tmp_path, "a"))
    assert not tutorial.is_finished("a", "key", tmp_path)
    tutorial.remember("a", "key", 12.34, tmp_path)
    tutorial.remember("b", "other", 1, tmp_path)
    assert tutorial.is_finished("a", "key", tmp_path)
    assert not tutorial.is_finished("a", "changed", tmp_path)
    assert not tutorial.is_finished("b", "other", tmp_path), "its executed copy is not there"
    tutorial.records_file(tmp_path, "a").unlink()
    assert not tutorial.is_finished("a", "key", tmp_path), "its records were deleted"


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}', "null"])
def test_a_broken_state_means_that_nothing_is_finished(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    assert not tutorial.is_finished("a", "key", tmp_path)
    tutorial.remember("a", "key", 1, tmp_path)
    assert json.loads((tmp_path / "state.json").read_text())["a"]["key"] == "key"


# --- results and failures --------------------------------------------------------------------------------------------


def test_records_are_merged_once_and_a_changed_number_is_named(tmp_path):
    def record(method, value):
        return Record(method, "no_tint", "accuracy", value, float("nan"), float("nan"), 9, 0)

    first = [record("base", 0.5), record("sft", 0.7)]
    stats.save_records(first, tmp_path / "a.json")
    stats.save_records([record("base", 0.5), record("sft", 0.6)], tmp_path / "b.json")
    merged, notes = tutorial.merge_records([tmp_path / name for name in ("a.json", "missing.json", "b.json")])
    assert [(r.method, r.value) for r in merged] == [("base", 0.5), ("sft", 0.6)]
    assert len(notes) == 1 and "sft" in notes[0] and "0.6000" in notes[0] and "0.7000" in notes[0]


def test_no_records_at_all_is_said(tmp_path):
    with pytest.raises(ValueError, match="no notebook left records"):
        tutorial.write_results(["a"], "ci", tmp_path, display())


def test_a_failure_without_a_traceback_shows_the_log(tmp_path):
    executed = tmp_path / "a.ipynb"
    lines = [*(f"line {i}" for i in range(50)), "\x1b[31mnbclient.exceptions.DeadKernelError\x1b[0m"]
    jobs.log_of(executed).write_text("\n".join(lines))
    said = jobs.describe_failure(executed)
    assert "memory" in said and "line 49" in said and "line 9\n" not in said and "\x1b" not in said
    executed.write_text("{ torn")
    assert jobs.describe_failure(executed) == said
    jobs.log_of(executed).unlink()
    assert "a failed" in jobs.describe_failure(executed)


def test_the_projects_notebooks_or_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("lrt.__file__", str(tmp_path / "site-packages" / "lrt" / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="in a clone of the repository"):
        tutorial.default_notebooks()
    (tmp_path / "notebooks").mkdir()
    for name in (name for group in tutorial.ORDER for name in group):
        (tmp_path / "notebooks" / f"{name}.ipynb").touch()
    assert [[path.stem for path in group] for group in tutorial.default_notebooks()] == list(map(list, tutorial.ORDER))


# --- progress --------------------------------------------------------------------------------------------------------


def stage(name="a", before=100.0, seconds_a_step=0.0, after=0.0, **state):
    return Stage(name, Phases(before, seconds_a_step, after), **state)


def test_time_left_is_the_longest_of_each_group():
    assert progress.seconds_left([[stage()], [stage(before=50), stage(before=200)]]) == pytest.approx(300)
    assert progress.seconds_left([[stage(finished=True)], [stage(before=50)]]) == pytest.approx(50), "skipped: no pace"
    assert progress.seconds_left([]) == 0
    assert progress.seconds_left([[stage(elapsed=30)]]) == pytest.approx(70)
    assert progress.seconds_left([[stage(elapsed=500)]]) > 0, "late is not done"


def test_time_left_follows_the_pace_of_the_machine():
    left = {seconds: progress.seconds_left([[stage(elapsed=seconds, finished=True)], [stage("b")]])
            for seconds in (50, 100, 200)}
    assert left[100] == pytest.approx(100)
    assert left[50] < 99 and 101 < left[200] < 200, "half trusted at first, for the table was measured too"
    late = progress.seconds_left([[stage(elapsed=500)], [stage("b")]])
    assert late > 200, "a notebook that is late says how slow the machine is, before it ends"


def training(step, at, elapsed):
    return stage(before=10, seconds_a_step=2, after=10, step=step, total=40, at=at, elapsed=elapsed)


def test_time_left_of_a_training_follows_its_steps():
    left = [progress.seconds_left([[training(20, 50, elapsed)]]) for elapsed in (50, 51, 55)]
    assert left == [pytest.approx(50), pytest.approx(49), pytest.approx(45)], "also between two steps"
    fast, slow = (progress.seconds_left([[training(20, at, at)]]) for at in (25, 100))
    assert fast < 45 and slow > 60
    after = progress.seconds_left([[training(40, 90, 90)]])
    assert after == pytest.approx(10) and 0 < progress.seconds_left([[training(40, 90, 300)]]) < 1


def test_status_line_names_what_runs():
    running = [stage("03_grpo", elapsed=5, step=7, total=250), stage("04", elapsed=5)]
    groups = [[stage("01_data", finished=True)], running, [stage("05")]]
    line = progress.status(groups, 3725)
    assert line.startswith("[1/4 done] 03_grpo step 7/250, 04 | 1:02:05 so far, about ")
    assert "05" not in line.split("|")[0] and progress.clock(65.4) == "1:05" and progress.clock(0) == "0:00"


def test_steps_come_from_the_log_of_this_run(tmp_path):
    log, now = tmp_path / "log.jsonl", time.time()
    assert progress.with_step(stage(total=9), log, 0).step == 0, "no log yet"
    log.write_text("".join(json.dumps({"step": i, "pad": "x" * 500}) + "\n" for i in range(40)) + '{"step": 4')
    os.utime(log, (now, now))
    seen = progress.with_step(stage(total=99), log, now - 60)
    assert seen.step == 39 and seen.at == pytest.approx(60, abs=0.1), "the last whole line, and when it came"
    os.utime(log, (now - 3600, now - 3600))
    assert progress.with_step(stage(total=99), log, now - 60).step == 0, "of an earlier run"
    log.write_text('nothing\n[]\n{"loss": 1}\n')
    assert progress.with_step(stage(total=99), log, 0).step == 0


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_display_refreshes_on_a_terminal_and_is_quiet_elsewhere():
    screen = progress.Display(Terminal())
    for text in ("one", "two" * 200):
        screen.update(text)
    screen.say("kept")
    written = screen.stream.getvalue()
    assert written.count("\n") == 1 and "\rone" in written and written.endswith("kept\n")
    assert all(len(line) < 300 for line in written.split("\r")), "a line that wraps cannot be refreshed"
    log = progress.Display(io.StringIO(), every=1000)
    log.update("one")
    assert log.stream.getvalue() == ""
    log.every = 0
    log.update("two")
    assert log.stream.getvalue() == "two\n"


def test_the_table_of_seconds_covers_every_notebook():
    from lrt.profiles import PROFILES

    names = [name for group in tutorial.ORDER for name in group]
    for profile in PROFILES:
        assert list(progress.SECONDS[profile]) == names
        for name, phases in progress.SECONDS[profile].items():
            assert (phases.step > 0) == (name in tutorial.TRAINS)
            if name in tutorial.TRAINS:
                assert getattr(PROFILES[profile], tutorial.TRAINS[name][1]) > 0
