"""Packaging. Everything declarative stands in pyproject.toml; this file only ships the autoload's .pth.

setuptools has no declarative way to put a ``.pth`` file beside the packages, neither for a wheel nor for an
editable install, so ``build_py`` copies it: into the build folder for a wheel, into the wheel itself when editable.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PTH = "dscsr_autoload.pth"


class BuildPyWithPth(build_py):
    """``build_py`` that also installs the ``.pth`` next to the packages (in site-packages, once installed)."""

    def _pth_target(self) -> Path:
        folder = self.get_finalized_command("install").install_lib if self.editable_mode else self.build_lib
        return Path(folder, PTH)

    def run(self) -> None:
        """Build, then copy the ``.pth``."""
        super().run()
        target = self._pth_target()
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PTH, target)

    def get_source_files(self) -> list[str]:
        """What a source distribution must hold."""
        return [*super().get_source_files(), PTH]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """What ``run`` wrote; setuptools lists it in the wheel's record."""
        outputs = super().get_outputs(include_bytecode)
        return outputs if self.editable_mode else [*outputs, str(self._pth_target())]


setup(cmdclass={"build_py": BuildPyWithPth})
