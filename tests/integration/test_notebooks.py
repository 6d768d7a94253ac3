"""The notebooks: clean in git, run from top to bottom on a CPU, stopped as their text says."""

import ast
import asyncio
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
PATHS = sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb"))
CLSER, DUALNET = "clser_tpu_colab", "dualnet_tpu_colab"


def read(name: str) -> nbformat.NotebookNode:
    """A notebook of the repository; nbformat checks it against the format."""
    return nbformat.read(ROOT / "experiments" / "notebooks" / f"{name}.ipynb", as_version=4)


@pytest.fixture
def client(installed, tmp_path, monkeypatch):
    """Notebook -> NotebookClient in an empty folder; neither home nor checkout is written."""
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    folder = tmp_path / "work"
    folder.mkdir()
    resources = {"metadata": {"path": str(folder)}}
    return lambda notebook: NotebookClient(notebook, timeout=1200, resources=resources)


def text_of(cell: nbformat.NotebookNode) -> str:
    """Everything a code cell printed or showed as text, and its errors."""
    texts = []
    for output in cell.outputs:
        texts += [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
        texts += [*output.get("traceback", [])]
    return "\n".join(texts)


def pictures(cell: nbformat.NotebookNode) -> int:
    """How many pictures a code cell showed."""
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def test_there_are_two():
    assert [path.stem for path in PATHS] == [CLSER, DUALNET]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_lies_in_git(path):
    """No outputs, one owner to be named, the same cells in both."""
    notebook = read(path.stem)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert all(set(cell.metadata) == set() for cell in notebook.cells)
    assert path.stat().st_size < 20_000
    for cell in code:  # "%run ..." and what continues it aside, it is Python
        ast.parse(re.sub(r"%run (.*\\\n)*.*", "pass", cell.source))
    everything = "".join(cell.source for cell in notebook.cells)
    assert 'OWNER = ""' in code[0].source
    assert re.findall(r"https?://\S+", everything) == ['https://github.com/{OWNER}/cls_jax"']
    assert not re.search(r"(from|import) cls_jax\.", everything), "the public API is enough"
    assert [cell.id for cell in notebook.cells] == [cell.id for cell in read(CLSER).cells]


@pytest.mark.parametrize(
    "name",
    [pytest.param(CLSER, marks=pytest.mark.slow), pytest.param(DUALNET, marks=pytest.mark.more)],
)
def test_it_runs_from_top_to_bottom(name, client):
    """DualNet with a narrower network than the preset, which is test_scripts.py's main job."""
    notebook = read(name)
    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    if name == DUALNET:
        for cell in (cells["quick"], cells["again"]):
            cell.source += " --width 2"
    client(notebook).execute()
    for cell in cells.values():
        assert all(output.output_type != "error" for output in cell.outputs), text_of(cell)
    assert "(cpu), JAX" in text_of(cells["device"])
    assert "task 5/5" in text_of(cells["quick"])
    assert "results in runs/" in text_of(cells["quick"])
    assert "is finished in runs/" not in text_of(cells["quick"])
    assert pictures(cells["figures"]) == 2
    assert pictures(cells["look"]) == 1
    assert "is finished in runs/" in text_of(cells["again"])
    assert "results in runs/" in text_of(cells["again"])
    assert not cells["paper"].outputs


@pytest.mark.slow
def test_the_stop_button_saves_and_leaves_the_notebook_alive(client):
    """As the text says: SystemExit 130, the kernel lives, and the same cell goes on."""
    notebook = read(CLSER)
    cells = {cell.id: cell for cell in notebook.cells}
    cells["quick"].source += " --chunk 20 --epochs 30 --restart"
    again = nbformat.v4.new_code_cell(cells["quick"].source.replace(" --restart", ""))
    notebook.cells = [cells["where"], cells["install"], cells["quick"], again]
    running = client(notebook)

    async def stop(cell, index):
        """Runs a cell and presses the button once a task is over; whether it was in time."""
        task = asyncio.create_task(running.async_execute_cell(cell, index))
        while not task.done():
            if "task 1/5" in text_of(cell):
                await running.km.interrupt_kernel()
                await task
                return True
            await asyncio.sleep(0.05)
        return False

    async def press():
        async with running.async_setup_kernel():
            for index in range(2):
                await running.async_execute_cell(notebook.cells[index], index)
            assert await stop(cells["quick"], 2), text_of(cells["quick"])
            await running.async_execute_cell(again, 3)

    asyncio.run(press())
    stopped = text_of(cells["quick"])
    assert "SIGINT: finishing this chunk, then saving" in stopped
    assert re.search(r"stopped and saved after step \d+; the same command goes on:", stopped)
    assert re.search(r"\n  cls-jax run clser --preset quick --seeds 0 1 2", stopped)
    assert "SystemExit: 130" in re.sub(r"\x1b\[[\d;]*m", "", stopped)
    assert "Traceback" not in stopped
    assert re.search(r"clser goes on from \S+: .* in task \d after step \d+", text_of(again))
    assert "results in runs/" in text_of(again)
    assert "error" not in {output.output_type for output in again.outputs}
