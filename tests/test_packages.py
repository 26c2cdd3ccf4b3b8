"""Each package's docstring describes its files, and light commands do not import Ray."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "physiq_ray"
PACKAGES = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_the_docstring_of_a_package_describes_each_of_its_files(folder):
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    listed = re.findall(r"^([a-z_0-9]+) +[^ ].*$", docstring.partition("\n\n")[2], re.MULTILINE)
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"}
    assert sorted(set(listed) & files) == sorted(files)


LIGHT = ("auditing", "cleanse", "cli", "config", "doctor", "erase", "labels", "progress", "syncing")


@pytest.mark.slow
@pytest.mark.parametrize("name", LIGHT)
def test_a_light_package_imports_neither_ray_nor_torch(name):
    code = (
        f"import sys, physiq_ray.{name}\nprint([heavy for heavy in ('ray', 'torch') if heavy in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def find_imported(code, *names):
    """Run code in a new process, and give the modules among names that it imports."""
    code += f"; import sys; print([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_the_command_line_imports_neither_ray_nor_torch_nor_s3():
    code = "import physiq_ray.cli as cli; cli.build_parser().format_help()"
    assert find_imported(code, "ray", "torch", "boto3", "pyarrow", "numpy", "rich") == "[]"


@pytest.mark.slow
def test_a_review_imports_neither_ray_nor_torch():
    assert find_imported("import physiq_ray.review.run", "ray", "torch", "fastapi", "matplotlib") == "[]"
