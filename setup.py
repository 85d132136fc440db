"""pyproject.toml says everything but one thing: what the package carries although it lies elsewhere in the repository.

The small model, the pictures and the lessons go to minqwen/shipped, laid out as they are here; `minqwen/files.py` finds
them in both places. An editable installation leaves them where they are.
"""

import shutil
from glob import glob
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("data/nano/*", "data/nano_moe/*", "data/nano_sft/*", "data/rl/*/*", "data/media/*", "data/training/*",
           "data/*.json", "notebooks/[0-9]*.ipynb", "notebooks/solutions/*.py", "docs/glossary.md")


class WithShipped(build_py):
    def run(self):
        super().run()
        for source, target in self.shipped().items():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def shipped(self) -> dict[str, Path]:
        """What to copy -> where to."""
        if self.editable_mode:
            return {}
        into = Path(self.build_lib) / "minqwen" / "shipped"
        files = {pattern: sorted(glob(pattern)) for pattern in SHIPPED}
        if empty := [pattern for pattern in SHIPPED if not files[pattern]]:
            raise SystemExit(f"Nothing matches {' and '.join(empty)}: build this in the whole repository.")
        return {source: into / source for sources in files.values() for source in sources}

    def get_outputs(self, include_bytecode=True):
        return [*super().get_outputs(include_bytecode), *map(str, self.shipped().values())]


setup(cmdclass={"build_py": WithShipped})
