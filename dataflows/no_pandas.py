"""Start faster: no process of a job imports pandas.

Where pandas is installed, pyarrow imports it to ask each array that it is given whether it is one of pandas'. That
takes 0.4 CPU seconds a process, and no job sees a pandas object. For processes of our own only: never a library's.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder


class _NoPandas(MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse pandas; other finders answer for everything else."""
        if name == "pandas":
            raise ModuleNotFoundError("a job does without pandas", name=name)


def do_without_pandas() -> None:
    """Make this process fail to import pandas, which pyarrow takes for its not being installed."""
    if "pandas" not in sys.modules:
        sys.meta_path.insert(0, _NoPandas())
