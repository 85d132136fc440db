"""What nbval lets pass although it is wrong, turned red. pytest reads this for each notebook here.

nbval judges a cell by its outputs alone. So it is content when
  - the kernel refused the cell (an unknown %magic): only the kernel's own reply says status "error";
  - the cell ran into the timeout and swallowed the interrupt; nbval then excuses all later cells too;
  - the committed cell was stripped: never run and no outputs, so nothing is compared;
  - an exception was raised in a thread, or under --nbval-lax written to stderr: nobody looks at it.

And what it should let pass: how near a check found two numbers stands at the end of its line, and another machine may
find them a little nearer.
"""

import os
from queue import Empty

import pytest

os.environ.setdefault("MINQWEN_MINE", "off")     # a learner's own pieces are no test of the lessons
os.environ.setdefault("MINQWEN_SHORT", "1")      # what takes minutes with a reader is cut short
os.environ.setdefault("TRITON_INTERPRET", "1")   # GPU kernels run without a GPU; read when triton is imported

MEASURED = r"(?m) \((exactly|within [-\d.e]+)(; [-\d.e]+ is allowed)?\)$"   # as `measured` of minqwen.verify writes it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    if type(item).__name__ != "IPyNbCell":
        return (yield)

    item.parent.sanitize_patterns[MEASURED] = ""
    kernel, wrong = item.parent.kernel, []
    listen = type(kernel).get_message

    def get_message(stream, timeout=None):
        try:
            message = listen(kernel, stream, timeout)
        except Empty:
            if stream == "shell":
                wrong.append("the cell did not finish in time")
            raise
        content = message["content"]
        if stream == "shell" and content.get("status") == "error":
            wrong.append(f"the kernel refused the cell: {content.get('ename')}: {content.get('evalue')}")
        return message

    kernel.get_message = get_message
    try:
        result = yield                                  # nbval's own verdict comes first
    finally:
        del kernel.get_message

    if item.cell.source.strip() and item.cell.execution_count is None:
        wrong.append("the committed cell was never run: `make notebooks` runs it")
    printed = "".join(out.get("text", "") for out in item.test_outputs or [] if out.get("name") == "stderr")
    if "Traceback (most recent call last)" in printed:
        wrong.append("the cell printed a traceback:\n" + printed)
    if wrong:
        item.raise_cell_error("; ".join(wrong))
    return result
