"""Lessons where learners read them: `minqwen lab`, a real JupyterLab, a real browser."""

import shutil

import nbformat
import pytest
from browser_support import IDLE, NOTEBOOK, a_jupyterlab, open_and_run, watched
from notebooks_support import printed, read, source_cells, tags

pytestmark = pytest.mark.browser


def test_a_lesson_that_nobody_has_run_shows_pictures(browser, repository, tmp_path):
    """As it comes from a clone or a wheel: where the explorer will be, its picture is."""
    (tmp_path / "notebooks").mkdir()
    shutil.copy(repository / "notebooks/00_start_here.ipynb", tmp_path / "notebooks")
    page = browser.new_page()
    with a_jupyterlab(tmp_path, "00") as (address, token):
        page.set_default_timeout(300_000)
        page.goto(f"{address}/lab/tree/notebooks/00_start_here.ipynb?reset&token={token}")
        page.wait_for_function(f"() => {IDLE}")
        page.evaluate(f"""() => {{
            const cells = {NOTEBOOK}.content;
            const index = cells.widgets.findIndex((cell) => cell.model.sharedModel.source.includes("StateExplorer("));
            cells.activeCellIndex = index;
            return cells.scrollToItem(index);
        }}""")
        picture = page.locator(".jp-Cell.jp-mod-active .jp-OutputArea img")
        picture.wait_for()
        assert picture.evaluate("async (img) => { await img.decode(); return img.naturalWidth; }") > 800
        assert page.get_by_text("Error displaying widget").count() == 0
        first = page.locator(".jp-Cell.jp-CodeCell").first
        assert not first.locator(".cm-content").is_visible(), "what installs is folded away"
    page.close()


@pytest.mark.parametrize("lesson", ["00_start_here", "03_delta_rule"])
def test_a_lesson_runs_in_minqwen_lab(lesson, browser, repository, tmp_path):
    shutil.copytree(repository / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns("mine", ".*"))
    page = browser.new_page()
    with a_jupyterlab(tmp_path, lesson) as (address, token):
        strangers, errors = watched(page, address)
        page.set_default_timeout(300_000)
        open_and_run(page, address, token, f"notebooks/{lesson}.ipynb")
        page.wait_for_function(f"""() => {NOTEBOOK}.content.model.sharedModel.cells
            .filter((cell) => cell.cell_type === "code").every((cell) => cell.execution_count) && {IDLE}""")
        here = nbformat.from_dict(page.evaluate(f"() => {NOTEBOOK}.content.model.sharedModel.toJSON()"))

        committed = source_cells(read(repository / "notebooks" / f"{lesson}.ipynb"))
        ran = source_cells(here)
        assert [cell.execution_count for cell in ran] == list(range(1, len(committed) + 1))
        for cell, before in zip(ran, committed):
            assert not [out for out in cell.outputs if out.output_type == "error"], printed(cell)
            if "nbval-ignore-output" not in tags(before):
                assert printed(cell) == printed(before)

        root = page.locator(".minqwen-state").first
        root.scroll_into_view_if_needed()
        page.wait_for_function("(root) => root.dataset.drawn", arg=root.element_handle())
        before = root.get_attribute("data-drawn")
        root.locator(".stage").press("ArrowLeft")
        page.wait_for_function("([root, before]) => root.dataset.drawn !== before", arg=[root.element_handle(), before])
        assert strangers == []
        assert [error for error in errors if "minqwen" in error or "anywidget" in error] == []
        if lesson == "00_start_here":
            reopened_without_its_kernel(page, address, token, tmp_path / "notebooks" / f"{lesson}.ipynb")
    page.close()


def reopened_without_its_kernel(page, address, token, path):
    """A saved lesson that JupyterLab trusts shows the pictures of its explorers, and no error."""
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    assert page.locator(".minqwen-state[data-drawn]").count() == 1, "on the open page it lives on"
    page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")
    page.goto(f"{address}/lab/tree/notebooks/{path.name}?reset&token={token}")
    page.wait_for_function(f"() => {IDLE}")
    trusted = page.evaluate(f"""() => {{
        const cells = {NOTEBOOK}.content;
        const index = cells.widgets.findIndex((cell) => cell.model.sharedModel.source.includes("StateExplorer("));
        cells.activeCellIndex = index;
        return cells.scrollToItem(index).then(() => cells.widgets[index].model.trusted);
    }}""")
    assert trusted, "else JupyterLab would show no widget in any case"
    page.locator(".jp-Cell.jp-mod-active .jp-OutputArea img").wait_for(timeout=60_000)
    assert page.get_by_text("Error displaying widget").count() == 0 == page.locator(".minqwen-state").count()
